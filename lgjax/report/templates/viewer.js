"use strict";
// Shows the volumes that the page holds. Every number and address comes from the page; nothing is fetched.
(async () => {
  const byId = (id) => document.getElementById(id);
  const told = JSON.parse(byId("told").textContent);
  const canvas = byId("canvas");
  const VIEWS = { planes: 3, axial: 0, coronal: 1, sagittal: 2, render: 4 }; // NiiVue's numbers
  const LAYERS = {
    scan: { key: "KeyS", colormap: "gray", opacity: 1, shown: true, range: told.window },
    restored: { key: "KeyR", colormap: "gray", opacity: 1, shown: false, range: told.window },
    anomaly: { key: "KeyM", colormap: "anomaly", opacity: 0.8, shown: true, range: [told.threshold, told.top] },
    detected: { key: "KeyD", colormap: "detected", opacity: 0.9, shown: false, range: [0, 2] },
    reference: { key: "KeyG", colormap: "reference", opacity: 0.9, shown: true, range: [0, 2] },
  };
  // The map is opaque from the first level above the threshold on; a mask is 1, not drawn, and 2 at its border.
  const COLOURS = {
    anomaly: { R: [0, 123, 229, 255], G: [0, 31, 57, 213], B: [0, 162, 119, 79], A: [0, 255, 255, 255], I: [0, 1, 128, 255] },
    detected: { R: [0, 255, 255], G: [0, 122, 122], B: [0, 26, 26], A: [0, 0, 255], I: [0, 192, 255] },
    reference: { R: [0, 24, 24], G: [0, 197, 197], B: [0, 192, 192], A: [0, 0, 255], I: [0, 192, 255] },
  };

  const fail = (error) => {
    byId("problem").hidden = false;
    byId("problem").textContent = `The volumes cannot be shown: ${error.message || error}`;
  };
  if (!document.createElement("canvas").getContext("webgl2")) {
    return fail("this browser has no WebGL 2. Try a newer browser, or switch hardware acceleration on.");
  }

  const names = Object.keys(LAYERS).filter((name) => byId(`data-${name}`));
  const file = (name) => Uint8Array.from(atob(byId(`data-${name}`).textContent), (letter) => letter.charCodeAt(0)).buffer;
  const load = (name) => {
    const { colormap, opacity, shown, range } = LAYERS[name];
    return niivue.NVImage.loadFromUrl({
      url: file(name),
      name: `${name}.nii.gz`,
      colormap,
      opacity: shown ? opacity : 0,
      cal_min: range[0],
      cal_max: range[1],
      colorbarVisible: name === "anomaly",
    });
  };
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.55, 0.85, 1, 0.8],
    crosshairWidth: 0.4,
    crosshairGap: 3,
    showAllOrientationMarkers: true,
    multiplanarPadPixels: 14,
    fontColor: [0.9, 0.9, 0.9, 1],
    isColorbar: true,
    isRadiologicalConvention: true,
    multiplanarShowRender: 0, // never: 3D is a view of its own
    dragAndDropEnabled: false,
    show3Dcrosshair: true,
    logLevel: "silent",
    loadingText: "",
  });
  try {
    await viewer.attachToCanvas(canvas);
    for (const [name, colours] of Object.entries(COLOURS)) viewer.addColormap(name, colours);
    const volumes = await Promise.all(names.map(load));
    viewer.volumes = volumes.slice(0, -1);
    viewer.addVolume(volumes.at(-1)); // draws them all, once
  } catch (error) {
    return fail(error);
  }
  const volumeOf = (name) => viewer.volumes[names.indexOf(name)];

  // Layers
  const draw = () => {
    names.forEach((name, place) => {
      viewer.volumes[place].opacity = byId(`show-${name}`).checked ? Number(byId(`opacity-${name}`).value) : 0;
    });
    viewer.updateGLVolume();
  };
  for (const name of names) {
    byId(`show-${name}`).checked = LAYERS[name].shown;
    byId(`opacity-${name}`).value = LAYERS[name].opacity;
    byId(`show-${name}`).addEventListener("change", draw);
    byId(`opacity-${name}`).addEventListener("input", draw);
  }

  // Threshold
  const slider = byId("threshold");
  slider.max = told.top;
  const volumeAbove = (threshold) => {
    const { img, hdr } = volumeOf("anomaly");
    let count = 0;
    for (const level of img) count += level * hdr.scl_slope + hdr.scl_inter > threshold;
    return count * told.voxelMl;
  };
  const tellThreshold = (threshold) => {
    slider.value = threshold;
    byId("above").textContent = `${threshold.toPrecision(3)} ${told.unit}; ${volumeAbove(threshold).toFixed(1)} mL lie above`;
    for (const button of document.querySelectorAll(".rate")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.threshold) === threshold));
    }
  };
  const cut = (threshold) => {
    tellThreshold(threshold);
    volumeOf("anomaly").cal_min = threshold;
    draw();
  };
  slider.addEventListener("input", () => cut(Number(slider.value)));
  for (const button of document.querySelectorAll(".rate")) {
    button.addEventListener("click", () => cut(Number(button.dataset.threshold)));
  }

  // Crosshair
  const sided = (value, plus, minus) => `${value < 0 ? minus : plus} ${Math.abs(value).toFixed(1)}`;
  const number = (value) => (value === 0 ? "0" : value.toPrecision(4));
  viewer.onLocationChange = ({ mm, values }) => {
    const [x, y, z] = mm;
    byId("mm").textContent = `${sided(x, "R", "L")}, ${sided(y, "A", "P")}, ${sided(z, "S", "I")}`;
    const voxel = told.voxelOf.slice(0, 3).map((row) => Math.round(row[0] * x + row[1] * y + row[2] * z + row[3]));
    byId("voxel").textContent = voxel.join(", ");
    names.forEach((name, place) => {
      const value = values[place].value;
      const isMask = name === "detected" || name === "reference";
      const unit = name === "anomaly" ? ` ${told.unit}` : "";
      byId(`value-${name}`).textContent = isMask ? (value ? "yes" : "no") : number(value) + unit;
    });
  };
  const goTo = (mm) => {
    viewer.scene.crosshairPos = viewer.mm2frac(mm, 0, true);
    viewer.createOnLocationChange();
    viewer.drawScene();
  };

  // Lesions
  const lesions = [...document.querySelectorAll(".lesion")];
  let current = -1;
  const goToLesion = (place) => {
    if (!lesions.length) return;
    current = (place + lesions.length) % lesions.length;
    lesions.forEach((button, number) => button.setAttribute("aria-pressed", String(number === current)));
    goTo(lesions[current].dataset.mm.split(" ").map(Number));
  };
  lesions.forEach((button, place) => button.addEventListener("click", () => goToLesion(place)));

  // View
  const look = () => viewer.setSliceType(VIEWS[byId("view").value]);
  const tellSide = () => {
    const radiological = viewer.getRadiologicalConvention();
    byId("side").textContent = radiological ? "radiological" : "neurological";
    byId("side").setAttribute("aria-pressed", String(radiological));
    byId("side-told").textContent = `the patient's ${radiological ? "right" : "left"} is on the left`;
  };
  const mirror = () => {
    viewer.setRadiologicalConvention(!viewer.getRadiologicalConvention());
    tellSide();
  };
  byId("view").addEventListener("change", look);
  byId("side").addEventListener("click", mirror);

  // Keyboard
  const toggle = (name) => {
    if (!byId(`show-${name}`)) return;
    byId(`show-${name}`).checked = !byId(`show-${name}`).checked;
    draw();
  };
  const onScreen = (step) => (viewer.getRadiologicalConvention() ? -step : step);
  const nextView = () => {
    byId("view").selectedIndex = (byId("view").selectedIndex + 1) % byId("view").length;
    look();
  };
  const follow = (id) => byId(id) && byId(id).click();
  const KEYS = {
    ArrowLeft: () => viewer.moveCrosshairInVox(onScreen(-1), 0, 0),
    ArrowRight: () => viewer.moveCrosshairInVox(onScreen(1), 0, 0),
    ArrowUp: () => viewer.moveCrosshairInVox(0, 1, 0),
    ArrowDown: () => viewer.moveCrosshairInVox(0, -1, 0),
    PageUp: () => viewer.moveCrosshairInVox(0, 0, 1),
    PageDown: () => viewer.moveCrosshairInVox(0, 0, -1),
    BracketLeft: () => cut(Math.max(0, Number(slider.value) - told.top / 100)),
    BracketRight: () => cut(Math.min(told.top, Number(slider.value) + told.top / 100)),
    KeyT: () => cut(told.threshold),
    KeyJ: () => goToLesion(current + 1),
    KeyK: () => goToLesion(Math.max(current, 0) - 1),
    KeyV: nextView,
    KeyN: mirror,
    Comma: () => follow("before"),
    Period: () => follow("after"),
  };
  for (const name of names) KEYS[LAYERS[name].key] = () => toggle(name);
  const press = (event) => {
    const field = ["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox";
    if (event.ctrlKey || event.metaKey || event.altKey || (field && /^(Arrow|Page)/.test(event.code))) return;
    if (event.target === canvas) event.stopPropagation(); // NiiVue has other keys
    if (!KEYS[event.code]) return;
    event.preventDefault();
    KEYS[event.code]();
  };
  document.addEventListener("keydown", press, true);
  document.addEventListener("keyup", (event) => event.target === canvas && event.stopPropagation(), true);

  tellSide();
  tellThreshold(told.threshold);
  goTo(told.start);
  window.lgjax = { viewer }; // for the console, and for tests
  document.documentElement.dataset.ready = "true";
})();
