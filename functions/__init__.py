"""Entry points of AWS Lambda, one folder each. In a deployment each folder stands alone; the tests import them from here."""
