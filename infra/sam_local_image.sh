#!/bin/sh
# Usage: sam_local_image.sh SAM_VENV FOLDER
#
# Builds an image that `sam local` takes for Lambda's own (public.ecr.aws/lambda/python:3.13), for a machine that cannot pull that
# one: Debian's base from its packages, the CPython 3.13 that the layers were compiled with, Lambda's runtime client from
# requirements/lambda.txt and the emulator that aws-sam-cli carries. It stands in for the image, it is not the image: other patch
# versions, another Linux, no X-Ray. Then: sam local invoke --skip-pull-image ...
#
# Needed: root, a running dockerd, debootstrap and a Debian mirror; a CPython 3.13 built for Debian bookworm's libraries.
set -eu

cd "$(dirname "$0")/.."
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ $# = 2 ] || fail "say which venv has aws-sam-cli, and a folder to work in"
sam=$1 work=$2
image=public.ecr.aws/lambda/python
case $(uname -m) in
  x86_64) arch=x86_64 emulator=x86_64 ;;
  aarch64) arch=arm64 emulator=arm64 ;;
  *) fail "Lambda runs on x86_64 and aarch64" ;;
esac
docker info >/dev/null 2>&1 || fail "no Docker daemon answers"
command -v debootstrap >/dev/null || fail "debootstrap is not there (Debian: apt-get install debootstrap)"
python=$(make -s -C layers/core compiler PYTHON_VERSION=3.13)
[ -n "$python" ] || fail "no CPython 3.13 is here (COMPILER may name one)"
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
rapid=$(echo "$sam"/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-$emulator)
[ -f "$rapid" ] || fail "$sam has no aws-sam-cli"

rm -rf "$work/image"
mkdir -p "$work/image/lang/lib" "$work/image/lang/bin" "$work/image/runtime"
if [ ! -e "$work/rootfs/etc/debian_version" ]; then
  debootstrap --variant=minbase \
    --include=ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libsqlite3-0,libssl3,zlib1g bookworm "$work/rootfs"
fi
tar -C "$work/rootfs" --exclude=./var/cache --exclude=./var/lib/apt --exclude=./usr/share/doc --exclude=./usr/share/man \
  --exclude=./usr/share/locale --exclude=./proc --exclude=./sys --exclude=./dev -c . | docker import - worker-space/debian:local >/dev/null

# The interpreter and its library, without what somebody installed into it.
cp -L "$prefix/bin/python3.13" "$work/image/lang/bin/"
cp -R "$prefix/lib/python3.13" "$work/image/lang/lib/"
find "$prefix/lib" -maxdepth 1 -name 'libpython3*.so*' -exec cp -P {} "$work/image/lang/lib/" \;
for unneeded in site-packages test idlelib tkinter turtledemo ensurepip; do rm -rf "$work/image/lang/lib/python3.13/$unneeded"; done
find "$work/image/lang" \( -name '*.a' -o -name __pycache__ \) -prune -exec rm -rf {} +

pip=".venv/bin/python -m pip"
. requirements/index.sh
.venv/bin/uv pip install --quiet --require-hashes --no-config --python "$python" --target "$work/image/runtime" -r requirements/lambda.txt
cp "$rapid" "$work/image/emulator"

cat > "$work/image/bootstrap" <<'END'
#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:/opt/python:$LAMBDA_RUNTIME_DIR"
cd "$LAMBDA_TASK_ROOT"
exec /var/lang/bin/python3.13 -m awslambdaric "$_HANDLER"
END
cat > "$work/image/lambda-entrypoint.sh" <<'END'
#!/bin/sh
export _HANDLER="$1"
[ -z "${AWS_LAMBDA_RUNTIME_API:-}" ] || exec /var/runtime/bootstrap
exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
END
chmod 755 "$work/image/bootstrap" "$work/image/lambda-entrypoint.sh" "$work/image/emulator"
cat > "$work/image/Dockerfile" <<'END'
FROM worker-space/debian:local
COPY lang/ /var/lang/
COPY runtime/ /var/runtime/
COPY bootstrap /var/runtime/bootstrap
COPY lambda-entrypoint.sh /lambda-entrypoint.sh
COPY emulator /usr/local/bin/aws-lambda-rie
RUN mkdir -p /var/task /opt /tmp && chmod 1777 /tmp
ENV LANG=C.UTF-8 PATH=/var/lang/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/var/lang/lib:/opt/lib \
  LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime
WORKDIR /var/task
ENTRYPOINT ["/lambda-entrypoint.sh"]
END
DOCKER_BUILDKIT=0 docker build --quiet --tag "$image:3.13" --tag "$image:3.13-$arch" "$work/image"
