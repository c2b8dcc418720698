#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gcc and g++ building a project of several files with make -j4.
. "$(dirname "$0")/lib.sh"
need gcc g++ make
for i in $(seq 8); do printf '#include <vector>\n#include <string>\n#include <algorithm>\nint part%d(int x){std::vector<std::string> v(x,"a");std::sort(v.begin(),v.end());return (int)v.size()+%d;}\n' $i $i > p$i.cc; done
{ for i in $(seq 8); do echo "int part$i(int);"; done; echo '#include <cstdio>'; echo 'int main(){int s=0;'; for i in $(seq 8); do echo "s+=part$i(10);"; done; echo 'std::printf("%d\n",s);}'; } > main.cc
printf 'extern int puts(const char*);int c_part(void){return puts("c");}\n' > c.c
printf 'OBJ=main.o p1.o p2.o p3.o p4.o p5.o p6.o p7.o p8.o\nprog: $(OBJ)\n\tg++ -o $@ $^\n%%.o: %%.cc\n\tg++ -O1 -c $<\nclean:\n\trm -f *.o prog\n' > Makefile
make -s -j4; equal "$(./prog)" 116; make -s clean; test ! -e prog
gcc -O2 -shared -fPIC -o libc_part.so c.c; ar rcs lib.a /dev/null 2>/dev/null || true
printf '#include <stdio.h>\nint main(){printf("hello\\n");return 0;}\n' > h.c; gcc -o h h.c; equal "$(./h)" hello
gcc -static -o hs h.c; equal "$(./hs)" hello; gcc -g -fsanitize=address -o ha h.c 2>/dev/null || true
equal "$(nm h | grep -c ' T main')" 1
