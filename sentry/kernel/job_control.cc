// SPDX-License-Identifier: Apache-2.0
// A session and its terminal: what drivers/tty/tty_jobctrl.c keeps in signal_struct.
#include "sentry/kernel/task_private.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::kernel {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

Result<void> ThreadGroup::set_controlling_tty(RefPtr<base::RefCounted> tty, uint32_t device) {
  RefPtr<Session> session;
  {
    base::MutexLock lock(set().mu);
    if (!pgroup) return err(kEPERM);
    Session& s = *pgroup->session;
    if (s.leader != this) return err(kEPERM);
    if (s.controlling_tty == tty) return {};
    if (s.controlling_tty) return err(kEPERM);
    s.controlling_tty = tty;
    s.tty_device = device;
    s.foreground = pgroup;
    session = pgroup->session;
  }
  // Only terminals are handed in.
  static_cast<ControllingTty*>(tty.get())->attach(std::move(session));
  return {};
}

RefPtr<base::RefCounted> ThreadGroup::controlling_tty() const {
  base::MutexLock lock(set().mu);
  return pgroup ? pgroup->session->controlling_tty : nullptr;
}

void ThreadGroup::drop_controlling_tty() {
  RefPtr<base::RefCounted> tty;
  RefPtr<ProcessGroup> foreground;
  {
    base::MutexLock lock(set().mu);
    if (!pgroup) return;
    Session& s = *pgroup->session;
    // DIVERGES: TIOCNOTTY by a process that is not the leader would detach only that process.
    if (s.leader != this) return;
    tty = std::move(s.controlling_tty);
    foreground = std::move(s.foreground);
    s.tty_device = 0;
  }
  if (!tty || !foreground) return;
  send_signal_to_group(*foreground, kernel_signal(abi::kSIGHUP));
  send_signal_to_group(*foreground, kernel_signal(abi::kSIGCONT));
}

RefPtr<ProcessGroup> ThreadGroup::foreground_group() const {
  base::MutexLock lock(set().mu);
  return pgroup ? pgroup->session->foreground : nullptr;
}

Result<void> ThreadGroup::set_foreground_group(abi::Pid pgid, const PidNamespace& ns) {
  RefPtr<ProcessGroup> old;
  base::MutexLock lock(set().mu);
  if (!pgroup || !pgroup->session->controlling_tty) return err(kENOTTY);
  ns.set_mu_is_held();
  PidNumber* number_found = ns.find_locked(pgid.value());
  if (!number_found || !number_found->process_group) return err(kESRCH);
  if (number_found->process_group->session != pgroup->session) return err(kEPERM);
  old = std::exchange(pgroup->session->foreground, RefPtr<ProcessGroup>(number_found->process_group));
  return {};
}

bool ThreadGroup::is_in_foreground() const {
  base::MutexLock lock(set().mu);
  return pgroup && pgroup->session->foreground == pgroup;
}

}  // namespace sentry::kernel
