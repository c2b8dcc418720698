// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/cmd/app.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <span>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/log/log.h"
#include "runsc-cli/cmd/commands.h"
#include "runsc-cli/container/client.h"

namespace cli {
namespace {

constexpr int kOwnFailure = 128;

// Everything that the command line may say, and which subcommand was chosen.
struct Line {
  Global global;
  CreateOptions create;
  KillOptions kill;
  DeleteOptions del;
  ExecOptions exec;
  DoOptions run_do;
  ListOptions list;
  PsOptions ps;
  WaitOptions wait;
  SpecOptions spec;
  EventsOptions events;
  UpdateOptions update;
  DebugOptions debug;
  TraceOptions trace;
  std::string id;
  // Flags of other runtimes that callers pass and that mean nothing here.
  std::string ignored_text;
  bool ignored_flag = false;
  int preserve_fds = 0;
  std::function<CommandResult()> run;
};

void add_global(CLI::App& app, Line& line) {
  Global& g = line.global;
  app.add_option("--root", g.root, "directory for the state of containers");
  app.add_option("--log", g.log, "file that errors are appended to");
  app.add_option("--log-format", g.log_format, "text or json")->check(CLI::IsMember({"text", "json"}));
  app.add_flag("--debug", g.debug, "log more");
  app.add_option("--debug-log", g.debug_log, "file for the debug log of sentry and gofer");
  app.add_option("--platform", g.platform, "how guest code is run");
  app.add_option("--network", g.network, "none or host")->check(CLI::IsMember({"none", "host"}));
  app.add_flag("--ignore-cgroups", g.ignore_cgroups, "neither make nor join cgroups");
  app.add_option("--overlay", g.overlay, "where writes to the root go: memory or none (through to the host)")
      ->check(CLI::IsMember({"memory", "none"}));
  app.add_option("--stats", g.stats, "of run and do: where to write at the end what took the time: a file (JSON), - for a table on stderr");
  app.add_option("--trace", g.trace, "of run and do: file that gets a timeline for ui.perfetto.dev at the end");
  app.add_flag("--strace", g.strace, "log every guest system call to the debug log");
  app.add_flag("--systemd-cgroup", g.systemd_cgroup, "cgroupsPath is slice:prefix:name");
  app.add_option("--rootless", line.ignored_text, "accepted, without effect");
  app.add_option("--criu", line.ignored_text, "accepted, without effect");
}

void add_create_flags(CLI::App& sub, Line& line) {
  sub.add_option("-b,--bundle", line.create.bundle, "directory with config.json");
  sub.add_option("--console-socket", line.create.console_socket, "Unix socket that gets the terminal's master");
  sub.add_option("--pid-file", line.create.pid_file, "file for the sandbox's pid");
  sub.add_flag("--no-pivot", line.ignored_flag, "accepted, without effect");
  sub.add_flag("--no-new-keyring", line.ignored_flag, "accepted, without effect");
  sub.add_option("--preserve-fds", line.preserve_fds, "only 0 is supported")->check(CLI::Range(0, 0));
  sub.add_option("id", line.create.id, "container")->required();
}

template <CommandResult (*run)(const Global&, const std::string&)>
void add_simple(CLI::App& sub, Line& line) {
  sub.add_option("id", line.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return run(line.global, line.id); }; });
}

void add_create(CLI::App& sub, Line& line) {
  add_create_flags(sub, line);
  sub.callback([&line] { line.run = [&line] { return cmd_create(line.global, line.create); }; });
}

void add_run(CLI::App& sub, Line& line) {
  add_create_flags(sub, line);
  sub.add_flag("-d,--detach", line.create.detach, "leave it running in the background");
  sub.add_option("--stats", line.global.stats, "file (JSON) or -: what took the time, at the end");
  sub.add_option("--trace", line.global.trace, "file: a timeline for ui.perfetto.dev, at the end");
  sub.add_flag("--keep", line.create.keep, "do not delete it when it ends");
  sub.add_flag("--no-subreaper", line.ignored_flag, "accepted, without effect");
  sub.callback([&line] { line.run = [&line] { return cmd_run(line.global, line.create); }; });
}

void add_kill(CLI::App& sub, Line& line) {
  sub.add_flag("-a,--all", line.kill.all, "to all its processes");
  sub.add_option("id", line.kill.id, "container")->required();
  sub.add_option("signal", line.kill.signal, "name or number, TERM when missing");
  sub.callback([&line] { line.run = [&line] { return cmd_kill(line.global, line.kill); }; });
}

void add_delete(CLI::App& sub, Line& line) {
  sub.add_flag("-f,--force", line.del.force, "kill it first; no error when it does not exist");
  sub.add_option("id", line.del.ids, "containers")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_delete(line.global, line.del); }; });
}

void add_update(CLI::App& sub, Line& line) {
  sub.add_option("-r,--resources", line.update.resources_file, "file with linux.resources, - for standard input")->required();
  sub.add_option("id", line.update.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_update(line.global, line.update); }; });
}

void add_exec(CLI::App& sub, Line& line) {
  ExecOptions& o = line.exec;
  sub.add_option("-p,--process", o.process_file, "file with the process as in config.json");
  sub.add_option("--console-socket", o.console_socket, "Unix socket that gets the terminal's master");
  sub.add_option("--pid-file", o.pid_file, "file for the pid of a host process that stands for it");
  sub.add_option("--cwd", o.cwd, "working directory");
  sub.add_option("-e,--env", o.env, "NAME=value")->take_all()->allow_extra_args(false);
  sub.add_option("-u,--user", o.user, "UID[:GID]");
  sub.add_option("-g,--additional-gids", o.additional_gids, "further groups")->take_all()->allow_extra_args(false);
  sub.add_option("-c,--cap", o.caps, "further capabilities")->take_all()->allow_extra_args(false);
  sub.add_flag("-t,--tty", o.tty, "with a terminal");
  sub.add_flag("-d,--detach", o.detach, "leave it in the background");
  sub.add_flag("--no-new-privs", o.no_new_privs, "no_new_privs for the process");
  sub.add_option("--apparmor", line.ignored_text, "accepted, without effect");
  sub.add_option("--process-label", line.ignored_text, "accepted, without effect");
  sub.add_option("--cgroup", line.ignored_text, "accepted, without effect");
  sub.add_flag("--ignore-paused", line.ignored_flag, "accepted, without effect");
  sub.add_option("--preserve-fds", line.preserve_fds, "only 0 is supported")->check(CLI::Range(0, 0));
  sub.prefix_command();
  sub.callback([&line, &sub] {
    std::vector<std::string> rest = sub.remaining();
    if (rest.empty() || rest[0].starts_with("-")) throw CLI::RequiredError("id");
    line.exec.id = rest[0];
    size_t first = rest.size() > 1 && rest[1] == "--" ? 2 : 1;
    line.exec.args.assign(rest.begin() + static_cast<long>(first), rest.end());
    line.run = [&line] { return cmd_exec(line.global, line.exec); };
  });
}

void add_do(CLI::App& sub, Line& line) {
  DoOptions& o = line.run_do;
  sub.add_option("--root", o.root, "another directory as the root");
  sub.add_option("--cwd", o.cwd, "working directory, the current one when missing");
  sub.add_option("-v,--volume", o.volumes, "SRC:DST[:ro]")->take_all()->allow_extra_args(false);
  sub.add_option("-e,--env", o.env, "NAME=value")->take_all()->allow_extra_args(false);
  sub.add_option("--tty", o.tty, "auto or never")->check(CLI::IsMember({"auto", "never"}));
  sub.add_option("--stats", line.global.stats, "file (JSON) or -: what took the time, at the end");
  sub.add_option("--trace", line.global.trace, "file: a timeline for ui.perfetto.dev, at the end");
  sub.add_flag("-q,--quiet", o.quiet, "no messages but errors");
  sub.prefix_command();
  sub.callback([&line, &sub] {
    line.run_do.args = sub.remaining();
    if (!line.run_do.args.empty() && line.run_do.args[0] == "--") line.run_do.args.erase(line.run_do.args.begin());
    if (line.run_do.args.empty()) throw CLI::RequiredError("CMD");
    if (line.run_do.args[0].starts_with("-")) throw CLI::ExtrasError({line.run_do.args[0]});
    line.run = [&line] { return cmd_do(line.global, line.run_do); };
  });
}

void add_list(CLI::App& sub, Line& line) {
  sub.add_option("-f,--format", line.list.format, "table or json")->check(CLI::IsMember({"table", "json"}));
  sub.add_flag("-q,--quiet", line.list.quiet, "ids only");
  sub.callback([&line] { line.run = [&line] { return cmd_list(line.global, line.list); }; });
}

void add_ps(CLI::App& sub, Line& line) {
  sub.add_option("-f,--format", line.ps.format, "table, json (host pids) or json-full")->check(CLI::IsMember({"table", "json", "json-full"}));
  sub.add_option("id", line.ps.id, "container")->required();
  sub.allow_extras();  // options for a host ps, which callers append
  sub.callback([&line] { line.run = [&line] { return cmd_ps(line.global, line.ps); }; });
}

void add_wait(CLI::App& sub, Line& line) {
  sub.add_option("--pid", line.wait.pid, "as the container sees it");
  sub.add_option("id", line.wait.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_wait(line.global, line.wait); }; });
}

void add_spec(CLI::App& sub, Line& line) {
  sub.add_option("-b,--bundle", line.spec.bundle, "directory to write it to");
  sub.add_flag("--rootless", line.ignored_flag, "accepted, without effect");
  sub.callback([&line] { line.run = [&line] { return cmd_spec(line.global, line.spec); }; });
}

void add_features(CLI::App& sub, Line& line) {
  sub.callback([&line] { line.run = [&line] { return cmd_features(line.global); }; });
}

void add_events(CLI::App& sub, Line& line) {
  sub.add_flag("--stats", line.events.stats, "once: as JSON, with counters and latencies since the sandbox started");
  sub.add_option("--interval", line.events.interval_sec, "seconds")->check(CLI::Range(1, 86400));
  sub.add_option("id", line.events.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_events(line.global, line.events); }; });
}

void add_trace(CLI::App& sub, Line& line) {
  sub.add_option("--duration", line.trace.seconds, "seconds; Ctrl-C ends it earlier")->check(CLI::Range(0.001, 3600.0));
  sub.add_option("-o,--output", line.trace.output, "file to write")->required();
  sub.add_option("id", line.trace.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_trace(line.global, line.trace); }; });
}

void add_debug(CLI::App& sub, Line& line) {
  sub.add_flag("--posture", line.debug.posture, "what each of its processes may do on the host");
  sub.add_flag("--stacks", line.debug.stacks, "what each task is doing");
  sub.add_flag("--stats", line.debug.stats, "where its time goes: calls by total time, hand-offs, faults, gofer messages");
  sub.add_option("id", line.debug.id, "container")->required();
  sub.callback([&line] { line.run = [&line] { return cmd_debug(line.global, line.debug); }; });
}

struct Command {
  const char *name, *text;
  void (*add)(CLI::App& sub, Line& line);
};

constexpr Command kCommands[] = {
    {"create", "make a container", add_create},
    {"run", "make and start a container, wait for it, delete it", add_run},
    {"start", "start a created container", add_simple<cmd_start>},
    {"state", "print the state of a container", add_simple<cmd_state>},
    {"pause", "stop all its tasks for now", add_simple<cmd_pause>},
    {"resume", "let them go on", add_simple<cmd_resume>},
    {"kill", "send a signal to a container", add_kill},
    {"delete", "remove a stopped container", add_delete},
    {"update", "change the limits of a container", add_update},
    {"exec", "run another process in a container: exec [flags] ID CMD...", add_exec},
    {"do", "run a command in a sandbox on this machine's root: do [flags] [--] CMD...", add_do},
    {"list", "list the containers", add_list},
    {"ps", "list the processes of a container", add_ps},
    {"wait", "wait for a container or one of its processes", add_wait},
    {"spec", "write a config.json to start from", add_spec},
    {"features", "print what this runtime supports", add_features},
    {"events", "print counters of a container", add_events},
    {"trace", "record what a sandbox does, as a timeline for ui.perfetto.dev", add_trace},
    {"debug", "look into a sandbox", add_debug},
};

// Those that are among the words; all of them where none is, or where help is asked for. Describing the others to the parser would take half
// of the time until a sandbox is made.
void add_commands(CLI::App& app, Line& line, std::span<char* const> words) {
  const auto is_there = [&](std::string_view word) { return std::find(words.begin(), words.end(), word) != words.end(); };
  const auto is_named = [&](const Command& c) { return is_there(c.name); };
  const bool all = is_there("-h") || is_there("--help") || std::none_of(std::begin(kCommands), std::end(kCommands), is_named);
  for (const Command& c : kCommands)
    if (all || is_named(c)) c.add(*app.add_subcommand(c.name, c.text), line);
}

std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

// One line on stderr for the person or the daemon that called, and one in --log as runc writes it.
int report(const Global& global, const std::string& message) {
  std::string text = one_line(message);
  std::string line = fmt::format("runsc: {}\n", text);
  (void)!write(2, line.data(), line.size());
  if (global.log.empty()) return kOwnFailure;
  base::UniqueFd fd(open(global.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  std::string quoted = json_quoted(text);
  std::string when = rfc3339_now().substr(0, 19) + "Z";
  line = global.log_format == "json"
             ? fmt::format("{{\"level\":\"error\",\"msg\":{},\"time\":\"{}\"}}\n", quoted, when)
             : fmt::format("time=\"{}\" level=error msg={}\n", when, quoted);
  if (fd) (void)!write(fd.get(), line.data(), line.size());
  return kOwnFailure;
}

std::string default_root() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  if (geteuid() != 0 && runtime && *runtime) return std::string(runtime) + "/runsc";
  return "/run/runsc";
}

// The debug log of all three processes: a file, or a directory that gets one file per command.
base::HostResult<base::UniqueFd> open_debug_log(const Global& global, const std::string& command) {
  if (global.debug_log.empty()) return base::UniqueFd();
  std::string path = global.debug_log;
  if (path.ends_with("/")) path += fmt::format("runsc.{}.{}.{}.log", time(nullptr), getpid(), command);
  base::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd) return base::HostErr(base::HostError::from_errno("--debug-log: " + path));
  return fd;
}

// 0, 1 and 2 must be open: other files must not get these numbers.
void fill_stdio() {
  for (int fd : {0, 1, 2})
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
}

int run_command(CLI::App& app, Line& line) {
  Global& g = line.global;
  if (g.root.empty()) g.root = default_root();
  char* absolute = g.root[0] == '/' ? nullptr : realpath(".", nullptr);
  if (absolute) g.root = std::string(absolute) + "/" + g.root;
  free(absolute);
  g.root = clean_path(g.root);
  auto subcommands = app.get_subcommands();
  auto log = open_debug_log(g, subcommands.empty() ? "" : subcommands[0]->get_name());
  if (!log) return report(g, log.error().message);
  base::log_init(log->get(), g.debug ? base::LogLevel::kDebug : base::LogLevel::kInfo,
                 g.log_format == "json" ? base::LogFormat::kJson : base::LogFormat::kText, "cli");
  CommandResult result = line.run();
  if (!result) return report(g, result.error().message);
  return *result;
}

// `do [flags] -- CMD`: CLI11 would leave the subcommand at the mark and look for CMD among the global arguments, so the mark goes.
// A later one belongs to CMD, which starts at the first word that is neither a flag nor a flag's value.
int drop_command_mark(int argc, char** argv) {
  constexpr std::string_view kWithValue[] = {"--root", "--cwd", "-v", "--volume", "-e", "--env", "--tty", "--stats", "--trace"};
  int at = 1;
  while (at < argc && std::string_view(argv[at]) != "do") ++at;
  for (++at; at < argc && argv[at][0] == '-'; ++at) {
    const std::string_view word = argv[at];
    if (word == "--") {
      std::copy(argv + at + 1, argv + argc + 1, argv + at);  // the null pointer too
      return argc - 1;
    }
    if (std::find(std::begin(kWithValue), std::end(kWithValue), word) != std::end(kWithValue)) ++at;
  }
  return argc;
}

}  // namespace

int cli_main(int argc, char** argv) {
  fill_stdio();
  signal(SIGPIPE, SIG_IGN);
  if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
    print(fmt::format("runsc version {}\nspec: {}\n", RUNSC_VERSION, kOciVersion));
    return 0;
  }
  Line line;
  CLI::App app("runsc: runs OCI containers on an application kernel in user space", "runsc");
  app.require_subcommand(1);
  add_global(app, line);
  app.add_flag_callback("-v,--version", [] {
    print(fmt::format("runsc version {}\nspec: {}\n", RUNSC_VERSION, kOciVersion));
    throw CLI::Success();
  }, "print the version");
  add_commands(app, line, {argv, static_cast<size_t>(argc)});
  try {
    argc = drop_command_mark(argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    // CLI11 would complain that the subcommand is missing.
    if (auto rest = app.remaining(); app.get_subcommands().empty() && !rest.empty() && !rest[0].starts_with("-"))
      return report(line.global, fmt::format("unknown command \"{:.40}\"; see runsc --help", rest[0]));
    return report(line.global, e.what());
  }
  return run_command(app, line);
}

}  // namespace cli
