// SPDX-License-Identifier: Apache-2.0
#include "sentry/control/requests.h"

#include <cerrno>
#include <cstring>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/program_pages.h"
#include "base/log/log.h"
#include "sentry/control/protocol.h"
#include "sentry/control/stats_report.h"
#include "sentry/control/trace_report.h"
#include "sentry/kernel/thread_group.h"

namespace sentry::control {

namespace {

using Json = nlohmann::json;
using base::HostErr;
using base::HostError;
using base::HostResult;

struct Process {
  base::RefPtr<kernel::ThreadGroup> group;
  std::function<void(uint16_t, uint16_t)> resize;
  std::optional<int32_t> status;                    // once it has exited
  std::vector<std::shared_ptr<Request>> waiters;    // `wait` requests to answer then
};

enum class Status : uint8_t { kCreated, kRunning, kStopped };

struct ContainerRecord {
  abi::oci::Container config;
  base::RefPtr<kernel::Container> container;
  ContainerFactory::Stdio stdio;
  base::UniqueFd stats, trace;  // where its statistics and its timeline go when init has exited
  Status status = Status::kCreated;
  bool held = false;  // init is loaded and waits for `start`
  int gofer_fd = -1;  // open for as long as the container's files are
  kernel::Reactor::WatchId gofer_watch = 0;
  int32_t init_pid = 0;
  std::map<int32_t, Process> processes;  // by pid in the container; 0 stands for init until it has one
};

// Fails with a text that names the parameter.
struct Failure {
  std::string text;
  int guest_errno = 0;
};
template <typename T>
using Outcome = std::expected<T, Failure>;
std::unexpected<Failure> fail(std::string text, abi::Errno e = abi::Errno{}) {
  return std::unexpected(Failure{std::move(text), static_cast<int>(e)});
}

Outcome<std::string> get_string(const Json& params, const char* key) {
  auto it = params.find(key);
  if (it == params.end() || !it->is_string()) return fail(fmt::format("parameter {}: a string is wanted", key));
  return it->get<std::string>();
}

int64_t get_int(const Json& params, const char* key, int64_t otherwise) {
  auto it = params.find(key);
  return it != params.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
}

bool get_bool(const Json& params, const char* key) {
  auto it = params.find(key);
  return it != params.end() && it->is_boolean() && it->get<bool>();
}

Json process_json(const kernel::Kernel::ProcessInfo& p, int64_t now_ns) {
  int64_t seconds = p.cpu_ns / 1'000'000'000;
  int64_t age_ns = now_ns - p.start_realtime_ns;
  time_t started = p.start_realtime_ns / 1'000'000'000;
  tm parts{};
  localtime_r(&started, &parts);
  return {{"uid", p.uid},
          {"pid", p.pid},
          {"ppid", p.ppid},
          {"c", age_ns > 0 ? p.cpu_ns * 100 / age_ns : 0},
          {"stime", fmt::format("{:02}:{:02}", parts.tm_hour, parts.tm_min)},
          {"tty", p.tty.empty() ? "?" : p.tty},
          {"time", fmt::format("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)},
          {"cmd", p.command}};
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

struct Requests::Impl {
  kernel::Kernel& kernel;
  ContainerFactory& factory;
  std::function<void(int32_t)> on_init_exit;
  base::Mutex mu{base::LockRank::kControl};
  std::map<std::string, ContainerRecord> containers GUARDED_BY(mu);
  std::string first_container GUARDED_BY(mu);
  const int64_t started_ns = kernel::monotonic_now_ns();
  uint64_t traces = 0;  // how many `trace` has begun; exclusive to the reactor's thread

  Impl(kernel::Kernel& k, ContainerFactory& f, std::function<void(int32_t)> e)
      : kernel(k), factory(f), on_init_exit(std::move(e)) {}

  using Method = Outcome<Json> (Impl::*)(Request&, const Json&);
  static const std::map<std::string_view, Method>& methods();

  ContainerRecord* find_locked(const std::string& id) REQUIRES(mu) {
    auto it = containers.find(id);
    return it == containers.end() ? nullptr : &it->second;
  }
  void watch_exit(const std::string& id, int32_t key, kernel::ThreadGroup& group);
  void process_exited(const std::string& id, int32_t key, int32_t status);
  void gofer_died(const std::string& id);
  Outcome<base::RefPtr<kernel::ThreadGroup>> group_of(const Json& params);
  Outcome<base::RefPtr<kernel::Container>> container_of(const Json& params);

  Outcome<Json> create(Request&, const Json&);
  Outcome<base::RefPtr<kernel::ThreadGroup>> load_init(const std::string& id);
  Outcome<Json> prepare(Request&, const Json&);
  Outcome<Json> start(Request&, const Json&);
  Outcome<Json> exec(Request&, const Json&);
  Outcome<Json> signal(Request&, const Json&);
  Outcome<Json> ps(Request&, const Json&);
  Outcome<Json> resize(Request&, const Json&);
  Outcome<Json> state(Request&, const Json&);
  Outcome<Json> destroy(Request&, const Json&);
  Outcome<Json> pause(Request&, const Json&);
  Outcome<Json> resume(Request&, const Json&);
  Outcome<Json> stats(Request&, const Json&);
  Outcome<Json> trace(Request&, const Json&);
  Outcome<Json> stacks(Request&, const Json&);
  Outcome<Json> version(Request&, const Json&);
  void wait(const std::shared_ptr<Request>& request, const Json& params);
};

const std::map<std::string_view, Requests::Impl::Method>& Requests::Impl::methods() {
  static const std::map<std::string_view, Method> table = {
      {"create", &Impl::create}, {"prepare", &Impl::prepare}, {"start", &Impl::start},     {"exec", &Impl::exec},     {"signal", &Impl::signal},
      {"ps", &Impl::ps},         {"resize", &Impl::resize},   {"state", &Impl::state},   {"destroy", &Impl::destroy},
      {"pause", &Impl::pause},   {"resume", &Impl::resume},   {"stats", &Impl::stats},   {"stacks", &Impl::stacks},
      {"version", &Impl::version}, {"trace", &Impl::trace},
  };
  return table;
}

Requests::Requests(kernel::Kernel& kernel, ContainerFactory& factory, std::function<void(int32_t)> on_init_exit)
    : impl_(std::make_unique<Impl>(kernel, factory, std::move(on_init_exit))) {}
Requests::~Requests() = default;

void Requests::handle(std::shared_ptr<Request> request) {
  const Json& params = request->params();
  LOG_DEBUG("control request {}", request->method());
  if (request->method() == "wait") {
    impl_->wait(request, params);
    return;
  }
  auto it = Impl::methods().find(request->method());
  if (it == Impl::methods().end()) {
    request->reply_error(fmt::format("unknown method {}", request->method()), 0);
    return;
  }
  Outcome<Json> result = (impl_.get()->*it->second)(*request, params);
  if (result) {
    request->reply_ok(dump(*result));
  } else {
    request->reply_error(result.error().text, result.error().guest_errno);
  }
}

void Requests::hang_up() {
  base::MutexLock lock(impl_->mu);
  for (auto& [id, record] : impl_->containers) shutdown(record.gofer_fd, SHUT_RDWR);
}

Outcome<Json> Requests::Impl::create(Request& request, const Json& params) {
  auto field = params.find("container");
  if (field == params.end()) return fail("parameter container is missing");
  auto config = container_from(*field);
  if (!config) return fail(config.error().message);
  {
    base::MutexLock lock(mu);
    if (find_locked(config->id)) return fail(fmt::format("container {} exists already", config->id));
  }
  std::vector<base::UniqueFd>& fds = request.fds();
  const bool with_stats = get_bool(params, "stats"), with_trace = get_bool(params, "trace");
  const size_t wanted = (config->process.terminal ? 2u : 4u) + (with_stats ? 1 : 0) + (with_trace ? 1 : 0);
  if (fds.size() != wanted) return fail(fmt::format("{} descriptors came with create, {} are wanted", fds.size(), wanted));
  base::UniqueFd gofer = std::move(fds[0]), stats, trace;
  fds.erase(fds.begin());
  if (with_trace) {
    trace = std::move(fds.back());
    fds.pop_back();
    base::trace::start(kTraceEvents);
  }
  if (with_stats) {
    stats = std::move(fds.back());
    fds.pop_back();
  }
  ContainerRecord record;
  record.gofer_fd = gofer.get();
  auto container = factory.create(*config, std::move(gofer));
  if (!container) return fail(container.error().message, static_cast<abi::Errno>(container.error().host_errno));
  auto stdio = factory.create_stdio(**container, config->process, ContainerFactory::Role::kInit, std::move(fds));
  if (!stdio) return fail(stdio.error().message);
  record.container = std::move(*container);
  record.stdio = std::move(*stdio);
  record.stats = std::move(stats);
  record.trace = std::move(trace);
  std::string id = config->id;
  // Not before this request is done: both are the reactor's work.
  record.gofer_watch = kernel.reactor().on_hangup(record.gofer_fd, [this, id] { gofer_died(id); });
  record.config = std::move(*config);
  base::MutexLock lock(mu);
  if (first_container.empty()) first_container = id;
  containers[id] = std::move(record);
  return Json{{"pid", 1}};
}

Outcome<base::RefPtr<kernel::ThreadGroup>> Requests::Impl::load_init(const std::string& id) {
  kernel::CreateProcessArgs args;
  std::function<void(uint16_t, uint16_t)> resize_terminal;
  bool ordinary = false;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(id);
    if (!record) return fail(fmt::format("container {} does not exist", id));
    ordinary = record->config.init_ordinary;
    if (record->status != Status::kCreated) return fail("container has been started already");
    record->status = Status::kRunning;
    args.container = record->container;
    args.spec = record->config.process;
    args.fds = std::move(record->stdio.fds);
    args.controlling_tty = std::move(record->stdio.controlling_tty);
    args.tty_device = record->stdio.tty_device;
    resize_terminal = std::move(record->stdio.resize);
    args.is_init = true;
  }
  std::string what;
  auto group = kernel.create_process(std::move(args), &what);
  if (!group) {
    base::MutexLock lock(mu);
    if (ContainerRecord* record = find_locked(id)) record->status = Status::kStopped;
    return fail(what, group.error());
  }
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(id);
    if (!record) return fail("container was destroyed while it started");
    record->processes[0].group = *group;
    record->processes[0].resize = std::move(resize_terminal);
  }
  if (ordinary) {
    base::MutexLock lock((*group)->signal_mu);
    (*group)->unkillable = false;
  }
  watch_exit(id, 0, **group);
  return *group;
}

Outcome<Json> Requests::Impl::prepare(Request&, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  auto group = load_init(*id);
  if (!group) return std::unexpected(group.error());
  base::MutexLock lock(mu);
  if (ContainerRecord* record = find_locked(*id)) record->held = true;
  return Json::object();
}

Outcome<Json> Requests::Impl::start(Request&, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  base::RefPtr<kernel::ThreadGroup> group;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(*id);
    if (record && std::exchange(record->held, false)) group = record->processes[0].group;
  }
  if (!group) {
    auto loaded = load_init(*id);
    if (!loaded) return std::unexpected(loaded.error());
    group = std::move(*loaded);
  }
  kernel.start_process(*group);
  // Not at once: most containers that do not live for long never need it.
  constexpr int64_t kSettled = 1'000'000'000;
  kernel.scheduler().add_timer(kernel::monotonic_now_ns() + kSettled, [] { base::drop_program_pages(); });
  return Json::object();
}

Outcome<Json> Requests::Impl::exec(Request& request, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  auto field = params.find("process");
  if (field == params.end()) return fail("parameter process is missing");
  auto process = process_from(*field);
  if (!process) return fail(process.error().message);
  kernel::CreateProcessArgs args;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(*id);
    if (!record) return fail(fmt::format("container {} does not exist", *id));
    // Not before there is an init: what is created first in a pid namespace is its init.
    if (record->status != Status::kRunning || !record->processes[0].group) return fail("container is not running");
    args.container = record->container;
  }
  const size_t wanted = process->terminal ? 1 : 3;
  if (request.fds().size() != wanted) return fail(fmt::format("{} descriptors came with exec, {} are wanted", request.fds().size(), wanted));
  auto stdio = factory.create_stdio(*args.container, *process, ContainerFactory::Role::kExec, std::move(request.fds()));
  if (!stdio) return fail(stdio.error().message);
  args.spec = std::move(*process);
  args.fds = std::move(stdio->fds);
  args.controlling_tty = std::move(stdio->controlling_tty);
  args.tty_device = stdio->tty_device;
  std::string what;
  auto group = kernel.create_process(std::move(args), &what);
  if (!group) return fail(what, group.error());
  const int32_t pid = (*group)->pid().value();
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(*id);
    if (!record) return fail("container was destroyed while the process started");
    Process entry;
    entry.group = *group;
    entry.resize = std::move(stdio->resize);
    record->processes[pid] = std::move(entry);
  }
  watch_exit(*id, pid, **group);
  kernel.start_process(**group);
  return Json{{"pid", pid}};
}

void Requests::Impl::watch_exit(const std::string& id, int32_t key, kernel::ThreadGroup& group) {
  kernel.on_process_exit(group, [this, id, key](int32_t status) { process_exited(id, key, status); });
}

void Requests::Impl::process_exited(const std::string& id, int32_t key, int32_t status) {
  std::vector<std::shared_ptr<Request>> waiters;
  base::RefPtr<kernel::ThreadGroup> dead;
  base::UniqueFd stats, trace;
  base::RefPtr<kernel::Container> container;
  kernel::Reactor::WatchId gofer_watch = 0;
  bool was_first_init = false;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(id);
    if (!record) return;
    Process& process = record->processes[key];
    process.status = status;
    waiters = std::move(process.waiters);
    dead = std::move(process.group);
    process.resize = nullptr;
    if (key == 0) {
      record->status = Status::kStopped;
      stats = std::move(record->stats);
      trace = std::move(record->trace);
      container = record->container;
      gofer_watch = std::exchange(record->gofer_watch, 0);
      was_first_init = id == first_container;
    }
  }
  kernel.reactor().unwatch(gofer_watch);
  // Before anybody hears that it has ended, and before the sandbox does.
  if (stats) write_all(stats.get(), dump(stats_report(kernel, *container, started_ns)));
  if (trace) write_all(trace.get(), trace_report(base::trace::stop()));
  for (auto& waiter : waiters) waiter->reply_ok(fmt::format("{{\"status\":{}}}", status));
  if (was_first_init) on_init_exit(status);
}

// Nothing can be read or written any more but what is cached: a container that went on would be a half one.
void Requests::Impl::gofer_died(const std::string& id) {
  base::RefPtr<kernel::ThreadGroup> init;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(id);
    if (!record) return;
    if (auto it = record->processes.find(0); it != record->processes.end()) init = it->second.group;
  }
  LOG_ERROR("container {}: its gofer is gone and its files with it: init is killed", id);
  if (init) (void)kernel.signal_process(*init, abi::Signo(abi::kSIGKILL));
}

void Requests::Impl::wait(const std::shared_ptr<Request>& request, const Json& params) {
  auto id = get_string(params, "id");
  auto pid = static_cast<int32_t>(get_int(params, "pid", 0));
  std::string error;
  std::optional<int32_t> status;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = id ? find_locked(*id) : nullptr;
    if (pid == 1) pid = 0;
    if (!record) {
      error = "container does not exist";
    } else if (pid != 0 && !record->processes.contains(pid)) {
      error = fmt::format("process {} was not started by exec", pid);
    } else {
      Process& process = record->processes[pid];
      status = process.status;
      if (!status) process.waiters.push_back(request);
    }
  }
  if (!error.empty()) {
    request->reply_error(error, static_cast<int>(abi::Errno::kESRCH));
  } else if (!status && get_bool(params, "kill_on_hangup")) {
    // A process that has exited by then is not found any more, or its SIGKILL is refused.
    request->on_hangup([this, params] {
      if (auto group = group_of(params)) (void)kernel.signal_process(**group, abi::Signo(abi::kSIGKILL));
    });
  } else if (status) {
    request->reply_ok(fmt::format("{{\"status\":{}}}", *status));
  }
}

Outcome<base::RefPtr<kernel::ThreadGroup>> Requests::Impl::group_of(const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  auto pid = static_cast<int32_t>(get_int(params, "pid", 0));
  base::MutexLock lock(mu);
  ContainerRecord* record = find_locked(*id);
  if (!record) return fail(fmt::format("container {} does not exist", *id));
  auto it = record->processes.find(pid == 1 ? 0 : pid);
  if (it == record->processes.end() || !it->second.group) return fail("process not found", abi::Errno::kESRCH);
  return it->second.group;
}

Outcome<base::RefPtr<kernel::Container>> Requests::Impl::container_of(const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  base::MutexLock lock(mu);
  ContainerRecord* record = find_locked(*id);
  if (!record) return fail(fmt::format("container {} does not exist", *id));
  return record->container;
}

Outcome<Json> Requests::Impl::signal(Request&, const Json& params) {
  auto signo = get_int(params, "signo", 0);
  if (signo < 0 || signo > abi::kNSIG) return fail(fmt::format("signal {} is out of range", signo), abi::Errno::kEINVAL);
  if (get_bool(params, "all")) {
    auto container = container_of(params);
    if (!container) return std::unexpected(container.error());
    kernel.signal_container(**container, abi::Signo(static_cast<int32_t>(signo)));
    return Json::object();
  }
  auto group = group_of(params);
  if (!group) return std::unexpected(group.error());
  if (auto sent = kernel.signal_process(**group, abi::Signo(static_cast<int32_t>(signo))); !sent)
    return fail(fmt::format("signal {}: {}", signo, abi::errno_name(sent.error())), sent.error());
  return Json::object();
}

Outcome<Json> Requests::Impl::ps(Request&, const Json& params) {
  auto container = container_of(params);
  if (!container) return std::unexpected(container.error());
  Json list = Json::array();
  const int64_t now = kernel::realtime_now_ns();
  for (const auto& info : kernel.processes(**container, kernel::Kernel::Command::kLine)) list.push_back(process_json(info, now));
  return Json{{"processes", std::move(list)}};
}

Outcome<Json> Requests::Impl::resize(Request&, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  auto pid = static_cast<int32_t>(get_int(params, "pid", 0));
  std::function<void(uint16_t, uint16_t)> act;
  {
    base::MutexLock lock(mu);
    ContainerRecord* record = find_locked(*id);
    if (!record) return fail(fmt::format("container {} does not exist", *id));
    auto it = record->processes.find(pid == 1 ? 0 : pid);
    if (it != record->processes.end()) act = it->second.resize;
    if (!act && pid <= 1) act = record->stdio.resize;  // init's, until it is loaded
  }
  if (!act) return fail("process has no terminal", abi::Errno::kENOTTY);
  act(static_cast<uint16_t>(get_int(params, "columns", 80)), static_cast<uint16_t>(get_int(params, "rows", 24)));
  return Json::object();
}

Outcome<Json> Requests::Impl::state(Request&, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  base::MutexLock lock(mu);
  ContainerRecord* record = find_locked(*id);
  if (!record) return fail(fmt::format("container {} does not exist", *id));
  const char* text = record->status == Status::kCreated ? "created" : record->status == Status::kRunning ? "running" : "stopped";
  return Json{{"status", text}, {"pid", record->status == Status::kStopped ? 0 : 1}};
}

Outcome<Json> Requests::Impl::destroy(Request&, const Json& params) {
  auto id = get_string(params, "id");
  if (!id) return std::unexpected(id.error());
  ContainerRecord record;
  bool last = false;
  {
    base::MutexLock lock(mu);
    auto it = containers.find(*id);
    if (it == containers.end()) return fail(fmt::format("container {} does not exist", *id));
    record = std::move(it->second);
    containers.erase(it);
    last = containers.empty();
  }
  kernel.reactor().unwatch(record.gofer_watch);
  kernel.destroy_container(*record.container);
  for (auto& [pid, process] : record.processes)
    for (auto& waiter : process.waiters) waiter->reply_ok("{\"status\":9}");
  if (last) on_init_exit(record.processes.contains(0) ? record.processes[0].status.value_or(9) : 9);
  return Json::object();
}

Outcome<Json> Requests::Impl::pause(Request&, const Json& params) {
  auto container = container_of(params);
  if (!container) return std::unexpected(container.error());
  kernel.pause_container(**container, true);
  return Json::object();
}

Outcome<Json> Requests::Impl::resume(Request&, const Json& params) {
  auto container = container_of(params);
  if (!container) return std::unexpected(container.error());
  kernel.pause_container(**container, false);
  return Json::object();
}

Outcome<Json> Requests::Impl::stats(Request&, const Json& params) {
  auto container = container_of(params);
  if (!container) return std::unexpected(container.error());
  return stats_report(kernel, **container, started_ns);
}

Outcome<Json> Requests::Impl::trace(Request& request, const Json& params) {
  auto container = container_of(params);
  if (!container) return std::unexpected(container.error());
  if (get_bool(params, "on")) {
    if (base::trace::is_on()) return fail("there is a trace of this sandbox under way already");
    base::trace::start(kTraceEvents);
    // Who asked for it may be killed before it asks for the end. A later trace is somebody else's.
    request.on_hangup([this, number = ++traces] {
      if (number == traces && base::trace::is_on()) (void)base::trace::stop();
    });
    return Json::object();
  }
  if (request.fds().size() != 1) return fail("one descriptor is wanted with trace");
  if (!base::trace::is_on()) return fail("there is no trace of this sandbox under way");
  ++traces;
  write_all(request.fds()[0].get(), trace_report(base::trace::stop()));
  return Json::object();
}

Outcome<Json> Requests::Impl::stacks(Request&, const Json&) {
  std::string text;
  base::MutexLock lock(mu);
  for (auto& [id, record] : containers) {
    for (const auto& info : kernel.processes(*record.container))
      text += fmt::format("{} pid {} state {} {} {}\n", id, info.pid, info.state, info.wait_channel, info.command);
  }
  return Json{{"text", text}};
}

Outcome<Json> Requests::Impl::version(Request&, const Json&) { return Json{{"protocol", kProtocolVersion}}; }

}  // namespace sentry::control
