#!/usr/bin/env bash
# Downloads and builds the peers into a folder, at the versions that stand beside each peer's program. What is there
# already is kept. Nothing is written into the repository; Redis, Ruby and Sidekiq come from Debian, with apt-get.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1" && dir=$(cd "$1" && pwd)

say() { printf '%-8s %s\n' "$1" "$2"; }
# Whether a peer was made from these very files; afterwards its version is written down.
made() { [ -f "$dir/$1.version" ] && [ "$(cat "${@:2}" | sha256sum)" = "$(cat "$dir/$1.made" 2>/dev/null)" ]; }
done_with() { cat "${@:3}" | sha256sum >"$dir/$1.made"; echo "$2" >"$dir/$1.version"; }

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v sidekiq >/dev/null || missing+=(ruby-sidekiq)
if [ ${#missing[@]} -gt 0 ]; then
    say debian "installing ${missing[*]}"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
say redis "$(redis-server --version | grep -o 'v=[0-9.]*' | cut -c3-)"
sidekiq -V | cut -d' ' -f2 >"$dir/sidekiq.version"
say sidekiq "$(cat "$dir/sidekiq.version"), $(ruby --version | cut -d' ' -f1-2), from Debian"

files=("$here/celery/requirements.txt")
if ! made celery "${files[@]}"; then
    say celery "a virtual environment in $dir/celery"
    python3 -m venv --clear "$dir/celery"
    "$dir/celery/bin/pip" install --quiet --no-deps -r "${files[0]}"
    done_with celery "$("$dir/celery/bin/python" -c 'import celery; print(celery.__version__)')" "${files[@]}"
fi
say celery "$(cat "$dir/celery.version"), $(python3 --version)"

files=("$here/bullmq/package.json")
if ! made bullmq "${files[@]}"; then
    say bullmq "node_modules in $dir/bullmq"
    mkdir -p "$dir/bullmq" && cp "${files[@]}" "$dir/bullmq"
    (cd "$dir/bullmq" && npm install --loglevel=error --no-package-lock --ignore-scripts --no-audit --no-fund)
    done_with bullmq "$(node -p "require('$dir/bullmq/node_modules/bullmq/package.json').version")" "${files[@]}"
fi
say bullmq "$(cat "$dir/bullmq.version"), Node $(node --version)"

files=("$here/apalis/Cargo.toml" "$here/apalis/Cargo.lock" "$here/apalis/src/main.rs")
if ! made apalis "${files[@]}"; then
    say apalis "a release build in $dir/target"
    cargo build --quiet --release --locked --manifest-path "${files[0]}" --target-dir "$dir/target"
    done_with apalis "$(grep -A1 'name = "apalis-redis"' "${files[1]}" | sed -n 's/version = "\(.*\)"/\1/p')" "${files[@]}"
fi
say apalis "$(cat "$dir/apalis.version"), $(rustc --version | cut -d' ' -f1-2)"
