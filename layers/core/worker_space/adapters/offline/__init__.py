"""The offline model: fixed rules in place of a language model, so that everything runs without network and key.

It understands simple requests in English, calls the tools it is given, and says only what their results hold. What
steers it is the user's last message alone: the text of files and memories is quoted, never followed.
"""

from worker_space.adapters.offline.model import offline_model

__all__ = ["offline_model"]
