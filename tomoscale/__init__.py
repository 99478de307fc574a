"""tomoscale: label and measure tomograms that no machine can hold."""

__version__ = "0.1.0"
