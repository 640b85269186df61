#!/bin/sh
# venv.sh REQUIREMENTS: /opt/venv with what a lock names, for the `build` stage of the Python images.
# Two environments, so that pip itself does not get into the image. The lock is complete: --no-deps.
set -e
python3 -m venv /opt/pip
python3 -m venv --without-pip /opt/venv
/opt/pip/bin/pip --python /opt/venv/bin/python3 install --no-cache-dir --no-deps --require-hashes \
  --only-binary=:all: -r "$1"
find /opt/venv/lib -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
