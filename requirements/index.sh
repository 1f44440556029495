# Sourced, with `pip` set to a command that runs pip: tells uv, in its own words, which index and certificates pip is set up with.
# What the caller set for uv wins. No address of an index is in any file of this project.
setting() { $pip config list | sed -n "s/^[^=]*\\.$1='\\(.*\\)'\$/\\1/p" | tail -n 1; }
index=$(setting index-url) certificates=$(setting cert)
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
[ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"
export UV_PYTHON_DOWNLOADS=never
# Without a terminal, uv's progress bars are noise.
[ -t 2 ] || export UV_NO_PROGRESS=1
