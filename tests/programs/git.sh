#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
. "$(dirname "$0")/lib.sh"
need git
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1
git init -q -b main r; cd r
for i in $(seq 100); do mkdir -p d$((i % 10)); seq $i > d$((i % 10))/f$i; done
git add -A; git commit -qm first; equal "$(git status --porcelain | wc -l)" 0; equal "$(git ls-files | wc -l)" 100
echo change >> d1/f1; equal "$(git diff --stat | tail -1 | tr -s ' ')" " 1 file changed, 1 insertion(+)"; git commit -qam second
git checkout -qb side HEAD~1; echo x > side; git add side; git commit -qm side; git checkout -q main; git merge -q --no-edit side; test -f side
cd ..; git clone -q r c; equal "$(git -C c log --oneline | wc -l)" 4; diff -r -x .git r c
git -C r gc -q; git -C r fsck --strict 2>/dev/null; git clone -q --bare "file://$PWD/r" b.git; equal "$(git -C b.git rev-parse main)" "$(git -C r rev-parse main)"
git -C c grep -q change; git -C c archive HEAD | tar -t | grep -c f | has -E '[0-9]'
