// SPDX-License-Identifier: Apache-2.0
// A sentry without a kernel: speaks the control protocol and plays a few commands, so that the CLI's life cycle can be
// tested alone. Guest programs: "true", "false", "exit N", "echo TEXT", "sleep" (until a signal), "missing" (ENOENT).
#include <csignal>
#include <cstdlib>
#include <map>
#include <memory>

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "sentry/control/protocol.h"
#include "sentry/main.h"

namespace sentry {
namespace {

using base::Json;

struct Process {
  std::vector<std::string> args;
  std::vector<base::UniqueFd> fds;
  bool started = false, exited = false;
  int status = 0;
};

struct Waiter {
  int connection;
  int64_t pid;
};

class FakeSentry {
 public:
  int run() {
    (void)!write(control::kReadyFd, "", 1);
    close(control::kReadyFd);
    while (true) {
      std::vector<pollfd> fds = {{control::kControlListenFd, POLLIN, 0}};
      for (auto& [fd, owned] : connections_) fds.push_back({fd, POLLIN, 0});
      if (poll(fds.data(), fds.size(), -1) < 0) continue;
      if (fds[0].revents) accept_one();
      for (size_t i = 1; i < fds.size(); ++i)
        if (fds[i].revents) serve(fds[i].fd);
      if (processes_.contains(1) && processes_[1].exited) {
        int status = processes_[1].status;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      }
    }
  }

 private:
  void accept_one() {
    int fd = accept(control::kControlListenFd, nullptr, nullptr);
    if (fd >= 0) connections_[fd].reset(fd);
  }

  void serve(int fd) {
    auto message = control::recv_message(fd);
    if (!message || message->json.empty()) {
      connections_.erase(fd);
      std::erase_if(waiters_, [&](const Waiter& w) { return w.connection == fd; });
      return;
    }
    Json request = Json::parse(message->json, nullptr, false);
    handle(fd, request.value("method", ""), request["params"], std::move(message->fds));
  }

  void ok(int fd, const Json& result) {
    (void)control::send_message(fd, base::dump_json({{"ok", true}, {"result", result}}));
  }
  void fail(int fd, const char* text, int number) {
    (void)control::send_message(fd, base::dump_json({{"ok", false}, {"error", text}, {"errno", number}}));
  }

  void handle(int fd, const std::string& method, const Json& params, std::vector<base::UniqueFd> fds) {
    if (method == "create") {
      auto container = control::decode_container(params["container"].dump());
      if (!container) return fail(fd, container.error().message.c_str(), EINVAL);
      gofer_ = std::move(fds.front());
      fds.erase(fds.begin());
      processes_[1].args = container->process.args;
      processes_[1].fds = std::move(fds);
      return ok(fd, {{"pid", 1}});
    }
    if (method == "start") {
      if (processes_[1].args[0] == "missing") return fail(fd, "missing: No such file or directory", ENOENT);
      ok(fd, Json::object());
      return start(1);
    }
    if (method == "exec") {
      auto process = control::decode_process(params["process"].dump());
      if (!process) return fail(fd, process.error().message.c_str(), EINVAL);
      if (process->args[0] == "missing") return fail(fd, "missing: No such file or directory", ENOENT);
      int64_t pid = ++last_pid_;
      processes_[pid].args = process->args;
      processes_[pid].fds = std::move(fds);
      ok(fd, {{"pid", pid}});
      return start(pid);
    }
    int64_t pid = params.value("pid", int64_t{0});
    if (pid == 0) pid = 1;
    if (method == "signal") {
      if (!processes_.contains(pid) || processes_[pid].exited) return fail(fd, "no such process", ESRCH);
      ok(fd, Json::object());
      const int signo = params.value("signo", 9);
      return signo == 0 ? void() : end(pid, signo);
    }
    if (method == "wait") {
      if (!processes_.contains(pid)) return fail(fd, "no such process", ESRCH);
      if (processes_[pid].exited) return ok(fd, {{"status", processes_[pid].status}});
      waiters_.push_back({fd, pid});
      return;
    }
    if (method == "ps") return ok(fd, {{"processes", {{{"uid", 0}, {"pid", 1}, {"cmd", processes_[1].args[0]}}}}});
    if (method == "pause" || method == "resume" || method == "resize" || method == "stats") return ok(fd, Json::object());
    fail(fd, "unknown method", ENOSYS);
  }

  void start(int64_t pid) {
    Process& p = processes_[pid];
    p.started = true;
    if (p.args[0] == "true") end(pid, 0);
    if (p.args[0] == "false") end(pid, 1 << 8);
    if (p.args[0] == "exit") end(pid, (atoi(p.args[1].c_str()) & 0xff) << 8);
    if (p.args[0] == "echo") {
      std::string line = p.args[1] + "\n";
      (void)!write(p.fds.size() > 1 ? p.fds[1].get() : p.fds[0].get(), line.data(), line.size());
      end(pid, 0);
    }
  }

  void end(int64_t pid, int status) {
    Process& p = processes_[pid];
    p.exited = true;
    p.status = status;
    p.fds.clear();
    for (const Waiter& w : waiters_)
      if (w.pid == pid) ok(w.connection, {{"status", status}});
    std::erase_if(waiters_, [&](const Waiter& w) { return w.pid == pid; });
  }

  std::map<int, base::UniqueFd> connections_;
  std::map<int64_t, Process> processes_;
  std::vector<Waiter> waiters_;
  base::UniqueFd gofer_;
  int64_t last_pid_ = 1;
};

}  // namespace

int boot_main(int, char**) {
  signal(SIGPIPE, SIG_IGN);
  return FakeSentry().run();
}

}  // namespace sentry
