// SPDX-License-Identifier: Apache-2.0
#include "gofer/server/config.h"

#include <cerrno>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "gofer/proto/messages.h"

namespace gofer {

namespace {

constexpr size_t kMaxConfig = 16 << 20;

base::HostResult<bool> get_bool(const nlohmann::json& object, const char* key, bool fallback) {
  auto it = object.find(key);
  if (it == object.end()) return fallback;
  if (!it->is_boolean()) return base::HostErr(base::HostError::plain(std::string("gofer config: ") + key + " is not a boolean"));
  return it->get<bool>();
}

base::HostResult<TreeConfig> parse_tree(const nlohmann::json& object) {
  auto bad = [](const char* what) { return base::HostErr(base::HostError::plain(std::string("gofer config: ") + what)); };
  if (!object.is_object()) return bad("trees: an element is not an object");
  auto path = object.find("path");
  if (path == object.end() || !path->is_string()) return bad("trees: path is missing");
  TreeConfig tree;
  tree.path = path->get<std::string>();
  if (tree.path.empty() || tree.path[0] != '/' || tree.path.find('\0') != std::string::npos) {
    return bad("trees: path is not absolute");
  }
  tree.readonly = TRY(get_bool(object, "readonly", false));
  tree.file = TRY(get_bool(object, "file", false));
  return tree;
}

}  // namespace

base::HostResult<Config> parse_config(std::string_view text) {
  auto bad = [](const char* what) { return base::HostErr(base::HostError::plain(std::string("gofer config: ") + what)); };
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return bad("not a JSON object");
  auto trees = json.find("trees");
  if (trees == json.end() || !trees->is_array() || trees->empty()) return bad("trees is missing");
  if (trees->size() > kMaxTrees) return bad("too many trees");
  Config config;
  for (const auto& tree : *trees) config.trees.push_back(TRY(parse_tree(tree)));
  config.host_uds = TRY(get_bool(json, "host_uds", false));
  config.debug = TRY(get_bool(json, "debug", false));
  config.confine = TRY(get_bool(json, "confine", true));
  return config;
}

base::HostResult<std::string> read_config(int fd) {
  // A memfd may come with its offset at the end of what was written.
  (void)lseek(fd, 0, SEEK_SET);
  std::string text;
  char buffer[16384];
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::HostErr(base::HostError::from_errno("read gofer config"));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxConfig) return base::HostErr(base::HostError::plain("gofer config: too large"));
  }
}

}  // namespace gofer
