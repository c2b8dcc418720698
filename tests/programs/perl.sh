#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
. "$(dirname "$0")/lib.sh"
need perl
equal "$(perl -e 'my %h = map { $_ => $_**2 } 1..5; print join ",", map { "$_=$h{$_}" } sort keys %h')" "1=1,2=4,3=9,4=16,5=25"
perl -e 'for my $i (1..20) { my $p = fork; if (!$p) { exit $i } waitpid $p, 0; die unless $? >> 8 == $i }'
perl -MIO::Socket::INET -e '
  my $l = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", Proto => "tcp") or die $!;
  if (!fork) { my $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1:" . $l->sockport) or die; print $c "hello\n"; exit 0 }
  my $s = $l->accept; my $x = <$s>; wait; die unless $x eq "hello\n" && $? == 0'
perl -e '$SIG{ALRM} = sub { $n++ }; use Time::HiRes qw(ualarm usleep); ualarm(10000, 10000); usleep(5000) while $n < 5;'
equal "$(perl -ne '$c++ if /bash/; END { print $c > 0 ? "yes" : "no" }' /etc/passwd)" yes
perl -MFile::Find -e 'find(sub { $n++ }, "/usr/lib/x86_64-linux-gnu/perl-base"); die unless $n > 10'
perl -MStorable -e 'Storable::store([1..1000], "s"); die unless 1000 == @{Storable::retrieve("s")}'
