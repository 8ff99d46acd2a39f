"""lgjax: unsupervised lesion detection in brain MRI by locally Gaussian restoration (Chen et al. 2019)."""

__version__ = "0.1.0"
