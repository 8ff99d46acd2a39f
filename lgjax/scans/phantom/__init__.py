"""The embedded data set: synthetic T2-weighted brains, healthy and with lesions."""
