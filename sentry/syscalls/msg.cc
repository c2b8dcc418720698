// SPDX-License-Identifier: Apache-2.0
// System V message queues: msgget(2), msgop(2), msgctl(2).
#include <algorithm>
#include <deque>

#include "sentry/syscalls/sysv_ipc.h"
#include "sentry/vfs/wait_queue.h"

namespace sentry::syscalls {

using enum abi::Errno;

namespace {

constexpr int32_t kMsgStat = 11, kMsgInfo = 12, kMsgStatAny = 13;
constexpr uint32_t kMsgNoError = 010000, kMsgExcept = 020000, kMsgCopy = 040000;
constexpr size_t kMaxQueues = 1024, kMaxMessage = 8192, kQueueBytes = 16384;
constexpr size_t kMaxMessages = kQueueBytes;  // zero-length messages count too, as in Linux

struct MsqidDs {
  sysv::PermAbi perm;
  int64_t stime = 0, rtime = 0, ctime = 0;
  uint64_t cbytes = 0, qnum = 0, qbytes = 0;
  int32_t lspid = 0, lrpid = 0;
  uint64_t unused[2] = {};
};
static_assert(sizeof(MsqidDs) == 120);

struct MsgInfoAbi {
  int32_t pool = 0, map = 0, max = kMaxMessage, mnb = kQueueBytes, mni = kMaxQueues, ssz = 16, tql = 0;
  uint16_t seg = 0, pad0 = 0;
};

struct Message {
  int64_t type = 0;
  std::vector<uint8_t> text;
};

struct Queue final : public base::RefCounted {
  int32_t id = 0;  // with perm: set when it is registered; the rest: the registry's lock
  sysv::Perm perm;
  std::deque<Message> messages;
  size_t bytes = 0, limit = kQueueBytes;
  int64_t stime = 0, rtime = 0, ctime = 0;
  int32_t lspid = 0, lrpid = 0;
  bool removed = false;
  vfs::WaitQueue changed;
};

struct MsgRegistry final : public base::RefCounted {
  base::Mutex mu{base::LockRank::kPipe};
  sysv::Objects<Queue> queues GUARDED_BY(mu);
};

RefPtr<MsgRegistry> registry_of(Task& task) {
  return task.namespaces()->ipc->objects.with([](auto& o) {
    if (!o.messages) o.messages = base::make_ref<MsgRegistry>();
    return RefPtr<MsgRegistry>(static_cast<MsgRegistry*>(o.messages.get()));
  });
}

int64_t now_seconds(Task& task) { return task.now_realtime() / 1'000'000'000; }

Result<RefPtr<Queue>> find_queue(Task& task, MsgRegistry& r, int32_t id, uint32_t want) {
  base::MutexLock lock(r.mu);
  RefPtr<Queue> q = id < 0 ? nullptr : r.queues.find(id);
  if (!q) return err(kEINVAL);
  if (want != 0) TRY(q->perm.check(task.creds(), want));
  return q;
}

// Tries `attempt` under the lock until it has an answer; between the tries it waits for a change of the queue.
// attempt: true = done, false = would block, or an error.
Result<void> wait_on_queue(Task& task, MsgRegistry& r, Queue& q, bool no_wait, abi::Errno would_block,
                           base::FunctionRef<Result<bool>()> attempt) {
  vfs::TaskWaiter waiter(task);
  q.changed.add(waiter, vfs::kPollAll);
  Result<void> result;
  for (;;) {
    Result<bool> done = err(kEIDRM);
    {
      base::MutexLock lock(r.mu);
      if (!q.removed) done = attempt();
    }
    if (!done) result = err(done.error());
    else if (!*done && no_wait) result = err(would_block);
    else if (!*done && task.block(std::nullopt) != vfs::WakeReason::kInterrupted) continue;
    else if (!*done) result = err(kERESTARTNOHAND);
    break;
  }
  q.changed.remove(waiter);
  return result;
}

}  // namespace

Result<int32_t> sys_msgget(Task& task, int32_t key, uint32_t flags) {
  RefPtr<MsgRegistry> r = registry_of(task);
  base::MutexLock lock(r->mu);
  return r->queues.get(task, key, flags, kMaxQueues, [](const Queue&) -> Result<void> { return {}; },
                       [&]() -> Result<RefPtr<Queue>> {
                         auto q = base::make_ref<Queue>();
                         q->ctime = now_seconds(task);
                         return q;
                       });
}

Result<void> sys_msgsnd(Task& task, int32_t id, Addr buffer, uint64_t size, uint32_t flags) {
  if (size > kMaxMessage || id < 0) return err(kEINVAL);
  Message message;
  message.type = TRY(task.read(UserIn<int64_t>(buffer)));
  if (message.type < 1) return err(kEINVAL);
  message.text = TRY(task.read_array(UserIn<uint8_t>(buffer + 8), size));
  RefPtr<MsgRegistry> r = registry_of(task);
  RefPtr<Queue> q = TRY(find_queue(task, *r, id, 2));
  return wait_on_queue(task, *r, *q, (flags & sysv::kNoWait) != 0, kEAGAIN, [&]() -> Result<bool> {
    if (q->bytes + size > q->limit || q->messages.size() >= kMaxMessages) return false;
    q->bytes += size;
    q->messages.push_back(std::move(message));
    q->stime = now_seconds(task);
    q->lspid = task.pid().value();
    q->changed.notify(vfs::kPollIn);
    return true;
  });
}

namespace {

// The message that msgrcv(2) of `type` takes, or end().
std::deque<Message>::iterator select_message(Queue& q, int64_t type, uint32_t flags) {
  auto& m = q.messages;
  if (flags & kMsgCopy) return type >= 0 && static_cast<size_t>(type) < m.size() ? m.begin() + type : m.end();
  if (type == 0) return m.begin();
  if (type > 0) return std::find_if(m.begin(), m.end(), [&](const Message& x) { return (x.type == type) != ((flags & kMsgExcept) != 0); });
  const int64_t bound = type == INT64_MIN ? INT64_MAX : -type;
  auto best = m.end();
  for (auto it = m.begin(); it != m.end(); ++it) {
    if (it->type <= bound && (best == m.end() || it->type < best->type)) best = it;
  }
  return best;
}

}  // namespace

Result<uint64_t> sys_msgrcv(Task& task, int32_t id, Addr buffer, uint64_t size, int64_t type, uint32_t flags) {
  if (id < 0 || static_cast<int64_t>(size) < 0) return err(kEINVAL);
  if ((flags & kMsgCopy) && ((flags & kMsgExcept) || !(flags & sysv::kNoWait))) return err(kEINVAL);
  RefPtr<MsgRegistry> r = registry_of(task);
  RefPtr<Queue> q = TRY(find_queue(task, *r, id, 4));
  Message taken;
  TRY(wait_on_queue(task, *r, *q, (flags & sysv::kNoWait) != 0, kENOMSG, [&]() -> Result<bool> {
    auto it = select_message(*q, type, flags);
    if (it == q->messages.end()) return false;
    if (it->text.size() > size && !(flags & kMsgNoError)) return err(kE2BIG);
    if (flags & kMsgCopy) {
      taken = *it;
      return true;
    }
    taken = std::move(*it);
    q->messages.erase(it);
    q->bytes -= taken.text.size();
    q->rtime = now_seconds(task);
    q->lrpid = task.pid().value();
    q->changed.notify(vfs::kPollIn);
    return true;
  }));
  const size_t n = std::min<uint64_t>(size, taken.text.size());
  TRY(task.write(UserOut<int64_t>(buffer), taken.type));
  if (n != 0) TRY(task.user_memory().copy_out(buffer + 8, taken.text.data(), n));
  return n;
}

namespace {

Result<int32_t> stat_queue(Task& task, MsgRegistry& r, int32_t id, int32_t command, Addr arg) {
  MsqidDs ds;
  int32_t result = 0;
  {
    base::MutexLock lock(r.mu);
    RefPtr<Queue> q = r.queues.find(id);
    if (command != sysv::kStat) {
      size_t index = static_cast<size_t>(id);
      q = nullptr;
      for (const auto& [queue_id, queue] : r.queues.by_id) {
        if (index-- == 0) q = queue;
      }
      if (q) result = q->id;
    }
    if (!q) return err(kEINVAL);
    if (command != kMsgStatAny) TRY(q->perm.check(task.creds(), 4));
    ds.perm = q->perm.to_abi(*task.creds().user_ns, q->id);
    ds.stime = q->stime, ds.rtime = q->rtime, ds.ctime = q->ctime;
    ds.cbytes = q->bytes, ds.qnum = q->messages.size(), ds.qbytes = q->limit;
    ds.lspid = q->lspid, ds.lrpid = q->lrpid;
  }
  TRY(task.write(UserOut<MsqidDs>(arg), ds));
  return result;
}

Result<int32_t> change_queue(Task& task, MsgRegistry& r, int32_t id, int32_t command, Addr arg) {
  MsqidDs ds;
  if (command == sysv::kSet) ds = TRY(task.read(UserIn<MsqidDs>(arg)));
  base::MutexLock lock(r.mu);
  RefPtr<Queue> q = r.queues.find(id);
  if (!q) return err(kEINVAL);
  TRY(q->perm.check_owner(task.creds()));
  if (command == sysv::kSet) {
    if (ds.qbytes > kQueueBytes && !task.creds().has_cap(creds::Cap::kSYS_RESOURCE)) return err(kEPERM);
    TRY(q->perm.set(*task.creds().user_ns, ds.perm));
    q->limit = std::min<uint64_t>(ds.qbytes, 1 << 20);
    q->ctime = now_seconds(task);
  } else {
    q->removed = true;
    r.queues.by_id.erase(id);
  }
  q->changed.notify(vfs::kPollIn);
  return 0;
}

}  // namespace

Result<int32_t> sys_msgctl(Task& task, int32_t id, int32_t command, Addr arg) {
  if (id < 0) return err(kEINVAL);
  RefPtr<MsgRegistry> r = registry_of(task);
  switch (command & ~0x100) {
    case sysv::kInfo:
    case kMsgInfo: {
      MsgInfoAbi info;
      int32_t last = 0;
      {
        base::MutexLock lock(r->mu);
        last = r->queues.by_id.empty() ? 0 : static_cast<int32_t>(r->queues.by_id.size()) - 1;
        if ((command & ~0x100) == kMsgInfo) info.pool = static_cast<int32_t>(r->queues.by_id.size());
      }
      TRY(task.write(UserOut<MsgInfoAbi>(arg), info));
      return last;
    }
    case sysv::kStat:
    case kMsgStat:
    case kMsgStatAny: return stat_queue(task, *r, id, command & ~0x100, arg);
    case sysv::kSet:
    case sysv::kRmid: return change_queue(task, *r, id, command & ~0x100, arg);
    default: return err(kEINVAL);
  }
}

SYSCALL_FAMILY(msg) = {
    ROW(msgctl, kFull, ""),
    ROW(msgget, kFull, ""),
    ROW(msgrcv, kFull, ""),
    ROW(msgsnd, kFull, ""),
};
SYSCALL_FAMILY_END(msg);

}  // namespace sentry::syscalls
