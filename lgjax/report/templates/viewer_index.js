"use strict";
// Leads from a page to its neighbour in this list: index.html#after=PAGE, #before=PAGE. Where there is none, the list stays.
{
  const [, way, page] = location.hash.match(/^#(before|after)=(.*)$/) || [];
  const links = [...document.querySelectorAll("tbody a")];
  const place = links.findIndex((link) => link.getAttribute("href") === page);
  const there = place >= 0 && links[place + (way === "after" ? 1 : -1)];
  if (there) location.replace(there.href);
}
