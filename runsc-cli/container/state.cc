// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/container/state.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/json/reader.h"
#include "sentry/control/protocol.h"

namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::Json;
using base::JsonReader;
using base::UniqueFd;

namespace {

constexpr size_t kMaxStateSize = 16 << 20;
constexpr size_t kMaxId = 128;

bool is_id_char(char c) { return isalnum(static_cast<unsigned char>(c)) || strchr("_+-.", c); }

HostResult<void> make_dirs(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  if (errno != ENOENT) return HostErr(HostError::from_errno("mkdir " + path));
  size_t slash = path.find_last_of('/');
  if (slash == std::string::npos || slash == 0) return HostErr(HostError::from_errno("mkdir " + path));
  TRY(make_dirs(path.substr(0, slash), 0755));
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return HostErr(HostError::from_errno("mkdir " + path));
  return {};
}

Json hooks_to_json(const std::vector<Hook>& hooks) {
  Json out = Json::array();
  for (const Hook& h : hooks)
    out.push_back({{"path", h.path}, {"args", h.args}, {"env", h.env}, {"timeout", h.timeout_sec}});
  return out;
}

void read_hooks(const JsonReader& r, const char* key, std::vector<Hook>& out) {
  for (const JsonReader& item : r.array(key, 4096)) {
    Hook& h = out.emplace_back();
    item.string("path", h.path);
    item.strings("args", h.args);
    item.strings("env", h.env);
    item.integer("timeout", h.timeout_sec);
  }
}

Status status_from_name(const std::string& name) {
  for (Status s : {Status::kCreating, Status::kCreated, Status::kRunning, Status::kPaused})
    if (name == status_name(s)) return s;
  return Status::kStopped;
}

constexpr char kLock[] = "lock", kState[] = "json", kNewState[] = "json.new", kSocket[] = "sock";  // what follows ID.

// Unix socket addresses hold 107 bytes.
bool fits_address(const std::string& path) { return path.size() < sizeof(sockaddr_un::sun_path); }

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

const char* status_name(Status status) {
  switch (status) {
    case Status::kCreating: return "creating";
    case Status::kCreated: return "created";
    case Status::kRunning: return "running";
    case Status::kPaused: return "paused";
    case Status::kStopped: return "stopped";
  }
  return "?";
}

HostResult<StateFiles> StateFiles::at(const std::string& root, const std::string& id) {
  if (id.empty()) return HostErr(HostError::plain("container id must not be empty"));
  if (id.size() > kMaxId) return HostErr(HostError::plain("container id is longer than 128 characters"));
  if (id == "." || id == ".." || !std::all_of(id.begin(), id.end(), is_id_char))
    return HostErr(HostError::plain("invalid container id: only letters, digits, _ + - . are allowed"));
  StateFiles files;
  files.root_ = root;
  files.id_ = id;
  return files;
}

std::string StateFiles::path(const char* which) const { return fmt::format("{}/{}.{}", root_, id_, which); }

HostResult<UniqueFd> StateFiles::create() {
  HostResult<UniqueFd> lock = open_lock(O_CREAT | O_EXCL);
  if (lock || lock.error().host_errno != ENOENT) return lock;
  TRY(make_dirs(root_, 0711));
  return open_lock(O_CREAT | O_EXCL);
}

// Only the creator makes the lock file, so that a container that is being removed cannot be locked anew.
HostResult<UniqueFd> StateFiles::lock() { return open_lock(0); }

HostResult<UniqueFd> StateFiles::open_lock(int flags) {
  HostError gone = HostError{ENOENT, fmt::format("container \"{}\" does not exist", id_)};
  const std::string lock = path(kLock);
  UniqueFd fd(open(lock.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
  if (!fd && errno == EEXIST) return HostErr(HostError::plain(fmt::format("container with id exists: \"{}\"", id_)));
  if (!fd && (errno == ENOENT || errno == ENOTDIR)) return HostErr(gone);
  if (!fd) return HostErr(HostError::from_errno(lock));
  while (flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) return HostErr(HostError::from_errno("lock " + lock));
  // Whoever held the lock before may have deleted the container.
  struct stat held {};
  if (fstat(fd.get(), &held) != 0 || held.st_nlink == 0) return HostErr(gone);
  return fd;
}

bool StateFiles::exists() const {
  struct stat st {};
  return lstat(path(kLock).c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

HostResult<State> StateFiles::load() const {
  const std::string path = this->path(kState);
  HostResult<std::string> text = read_small_file(path, kMaxStateSize);
  if (!text) {
    if (text.error().host_errno == ENOENT)
      return HostErr(HostError{ENOENT, fmt::format("container \"{}\" does not exist", id_)});
    return HostErr(std::move(text.error()));
  }
  HostResult<Json> json = base::parse_json(*text);
  if (!json) return HostErr(std::move(json.error()).wrap(path));
  State s;
  std::string error, status;
  JsonReader r(*json, &error);
  r.must_be_object();
  r.string("id", s.id, JsonReader::Need::kRequired);
  r.string("ociVersion", s.oci_version);
  r.string("status", status, JsonReader::Need::kRequired);
  s.status = status_from_name(status);
  r.integer("pid", s.pid, 0, INT32_MAX);
  r.integer("pidStartTime", s.pid_start_time);
  r.string("bundle", s.bundle);
  r.string("rootfs", s.rootfs);
  r.string("created", s.created);
  r.integer("owner", s.owner);
  r.string_map("annotations", s.annotations);
  r.strings("cgroupDirs", s.cgroup_dirs);
  JsonReader hooks = r.object("hooks");
  read_hooks(hooks, "startContainer", s.hooks.start_container);
  read_hooks(hooks, "poststart", s.hooks.poststart);
  read_hooks(hooks, "poststop", s.hooks.poststop);
  if (!error.empty()) return HostErr(HostError::plain(path + ": " + error));
  if (r.has("process")) {
    auto process = sentry::control::process_from(*r.object("process").node());
    if (process) s.process = std::move(*process);
  }
  return s;
}

HostResult<void> StateFiles::save(const State& s) const {
  Json json = {
      {"id", s.id},
      {"ociVersion", s.oci_version},
      {"status", status_name(s.status)},
      {"pid", s.pid},
      {"pidStartTime", s.pid_start_time},
      {"bundle", s.bundle},
      {"rootfs", s.rootfs},
      {"created", s.created},
      {"owner", s.owner},
      {"annotations", s.annotations},
      {"cgroupDirs", s.cgroup_dirs},
      {"hooks",
       {{"startContainer", hooks_to_json(s.hooks.start_container)},
        {"poststart", hooks_to_json(s.hooks.poststart)},
        {"poststop", hooks_to_json(s.hooks.poststop)}}},
      {"process", sentry::control::json_of(s.process)},
  };
  std::string text = base::dump_json(json);
  const std::string path = this->path(kState), temporary = this->path(kNewState);
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return HostErr(HostError::from_errno(temporary));
  for (size_t done = 0; done < text.size();) {
    ssize_t n = write(fd.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return HostErr(HostError::from_errno(temporary));
    done += static_cast<size_t>(n);
  }
  // An exchange: ext4 writes a file that replaces another one to the disk first, as it cannot know that nobody wants it to survive.
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    unlink(temporary.c_str());
    return {};
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) return HostErr(HostError::from_errno("rename " + temporary));
  return {};
}

void StateFiles::remove() const {
  // The lock goes last: what an interrupted removal leaves can still be deleted by force.
  for (const char* which : {kSocket, kNewState, kState, kLock}) unlink(path(which).c_str());
}

HostResult<UniqueFd> StateFiles::listen() const {
  const std::string path = this->path(kSocket);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return HostErr(HostError::from_errno("control socket"));
  // Where the path is too long for an address, a short name first.
  std::string name = path;
  UniqueFd root;
  if (!fits_address(path)) {
    root.reset(open(root_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) return HostErr(HostError::from_errno(root_));
    name = fmt::format("/proc/self/fd/{}/.{}.sock", root.get(), getpid());
  }
  const sockaddr_un address = unix_address(name);
  mode_t old = umask(0177);
  int bound = bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  int bind_errno = errno;
  umask(old);
  if (bound != 0) return HostErr(HostError::from_errno("bind " + path, bind_errno));
  if (root && rename(name.c_str(), path.c_str()) != 0) {
    const int rename_errno = errno;
    unlink(name.c_str());
    return HostErr(HostError::from_errno("rename to " + path, rename_errno));
  }
  if (::listen(fd.get(), 128) != 0) return HostErr(HostError::from_errno("listen"));
  return fd;
}

HostResult<UniqueFd> StateFiles::connect() const {
  std::string path = this->path(kSocket);
  UniqueFd file;
  if (!fits_address(path)) {
    file.reset(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file) return HostErr(HostError::from_errno("connect to the sandbox"));
    path = fmt::format("/proc/self/fd/{}", file.get());
  }
  const sockaddr_un address = unix_address(path);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return HostErr(HostError::from_errno("control socket"));
  while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    if (errno != EINTR) return HostErr(HostError::from_errno("connect to the sandbox"));
  return fd;
}

std::vector<std::string> list_ids(const std::string& root) {
  const std::string suffix = std::string(".") + kLock;
  std::vector<std::string> out;
  DIR* dir = opendir(root.c_str());
  if (!dir) return out;
  while (const dirent* entry = readdir(dir)) {
    std::string name = entry->d_name;
    if (!name.ends_with(suffix)) continue;
    name.resize(name.size() - suffix.size());
    auto container = StateFiles::at(root, name);
    if (container && container->exists()) out.push_back(std::move(name));
  }
  closedir(dir);
  std::sort(out.begin(), out.end());
  return out;
}

uint64_t process_start_time(int pid) {
  if (pid <= 0) return 0;
  auto text = read_small_file(fmt::format("/proc/{}/stat", pid), 8192);
  if (!text) return 0;
  // pid (comm) state ppid ...: comm may hold anything, so count from its last parenthesis.
  size_t end = text->rfind(')');
  if (end == std::string::npos || end + 2 >= text->size()) return 0;
  const char* p = text->c_str() + end + 2;
  if (*p == 'Z' || *p == 'X') return 0;
  for (int field = 3; field < 22; ++field) {
    p = strchr(p, ' ');
    if (!p) return 0;
    ++p;
  }
  return strtoull(p, nullptr, 10);
}

bool is_alive(const State& state) {
  uint64_t start = process_start_time(state.pid);
  return start != 0 && start == state.pid_start_time;
}

Status current_status(const State& state) {
  if (state.status == Status::kCreating && state.pid == 0) return Status::kCreating;
  return is_alive(state) ? state.status : Status::kStopped;
}

std::string state_json(const State& state, Status status, StateFields fields) {
  nlohmann::ordered_json json = {
      {"ociVersion", state.oci_version},
      {"id", state.id},
      {"pid", status == Status::kStopped ? 0 : state.pid},
      {"status", status_name(status)},
      {"bundle", state.bundle},
  };
  if (fields == StateFields::kRuntime) {
    json["rootfs"] = state.rootfs;
    json["created"] = state.created;
  }
  if (!state.annotations.empty()) json["annotations"] = state.annotations;
  if (fields == StateFields::kRuntime) json["owner"] = state.owner == 0 ? "root" : std::to_string(state.owner);
  return json.dump(fields == StateFields::kRuntime ? 2 : -1, ' ', false, Json::error_handler_t::replace);
}

std::string rfc3339_now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:09}Z", text, now.tv_nsec);
}

}  // namespace cli
