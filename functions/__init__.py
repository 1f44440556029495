"""Entry points of AWS Lambda, one folder each; in a deployment each folder stands alone."""
