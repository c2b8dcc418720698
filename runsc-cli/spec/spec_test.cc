// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/spec/spec.h"

#include <catch2/catch.hpp>
#include <sys/mount.h>

#include "base/json/reader.h"

namespace cli {
namespace {

using base::Json;

Json minimal() {
  return Json::parse(R"({"ociVersion":"1.0.2","process":{"args":["/bin/true"],"cwd":"/"},"root":{"path":"rootfs"}})");
}

std::string error_of(const std::string& text) {
  auto spec = parse_spec(text, "config.json", "/b");
  return spec ? "" : spec.error().message;
}

TEST_CASE("Spec: the smallest config is accepted and resolved against the bundle") {
  auto spec = parse_spec(minimal().dump(), "config.json", "/b");
  REQUIRE(spec.has_value());
  CHECK(spec->root_path == "/b/rootfs");
  CHECK(spec->trees.size() == 1);
  CHECK(spec->container.process.umask == 022);
}

TEST_CASE("Spec: what `spec` writes is accepted") {
  auto spec = parse_spec(default_spec_json(), "config.json", "/b");
  INFO((spec ? "" : spec.error().message));
  REQUIRE(spec.has_value());
  CHECK(spec->container.mounts.size() == 6);
  CHECK(spec->namespaces.network.listed);
  CHECK(spec->container.process.rlimits.at(0).resource == 7);
}

TEST_CASE("Spec: the wrong field is named") {
  struct Row {
    const char* patch;  // merged into the minimal config
    const char* expected;
  };
  const Row rows[] = {
      {R"({"ociVersion":null})", "ociVersion: is missing"},
      {R"({"ociVersion":2})", "ociVersion: must be a string"},
      {R"({"ociVersion":"2.0.0"})", "ociVersion: must be 1.x"},
      {R"({"process":null})", "process: is missing"},
      {R"({"process":3})", "process: must be an object"},
      {R"({"process":{"args":[]}})", "process.args: must not be empty"},
      {R"({"process":{"args":[""]}})", "process.args[0]: must not be empty"},
      {R"({"process":{"args":["a\u0000b"]}})", "process.args[0]: must not contain a NUL byte"},
      {R"({"process":{"args":{"0":"sh"}}})", "process.args: must be an array"},
      {R"({"process":{"env":["A=1","B"]}})", "process.env[1]: must have the form NAME=value"},
      {R"({"process":{"env":["=1"]}})", "process.env[0]: must have the form"},
      {R"({"process":{"cwd":"tmp"}})", "process.cwd: must be an absolute path"},
      {R"({"process":{"cwd":""}})", "process.cwd: must not be empty"},
      {R"({"process":{"cwd":null}})", "process.cwd: is missing"},
      {R"({"process":{"user":{"uid":-1}}})", "process.user.uid: must be from 0"},
      {R"({"process":{"user":{"uid":4294967295}}})", "process.user.uid: must be from 0"},
      {R"({"process":{"user":{"gid":"0"}}})", "process.user.gid: must be an integer"},
      {R"({"process":{"user":{"umask":512}}})", "process.user.umask: must be from 0"},
      {R"({"process":{"user":{"additionalGids":[1,"x"]}}})", "process.user.additionalGids[1]: must be an integer"},
      {R"({"process":{"capabilities":{"bounding":["root"]}}})", "process.capabilities.bounding[0]: is not the name"},
      {R"({"process":{"capabilities":{"effective":["CAP_KILL"]}}})", "process.capabilities.effective: has a capability"},
      {R"({"process":{"noNewPrivileges":"yes"}})", "process.noNewPrivileges: must be true or false"},
      {R"({"process":{"rlimits":[{"type":"RLIMIT_X","soft":1,"hard":1}]}})", "process.rlimits[0].type: is not the name"},
      {R"({"process":{"rlimits":[{"type":"RLIMIT_AS","soft":2,"hard":1}]}})", "process.rlimits[0].soft: must not be above"},
      {R"({"process":{"rlimits":[{"type":"RLIMIT_AS","soft":1}]}})", "process.rlimits[0].hard: is missing"},
      {R"({"process":{"rlimits":[{"type":"RLIMIT_AS","soft":1,"hard":1},{"type":"RLIMIT_AS","soft":1,"hard":1}]}})",
       "process.rlimits[1].type: is listed twice"},
      {R"({"process":{"oomScoreAdj":1001}})", "process.oomScoreAdj: must be from -1000 to 1000"},
      {R"({"process":{"consoleSize":{"width":70000}}})", "process.consoleSize.width: must be from 0 to 65535"},
      {R"({"root":null})", "root: is missing"},
      {R"({"root":{"path":""}})", "root.path: must not be empty"},
      {R"({"root":{"readonly":1}})", "root.readonly: must be true or false"},
      {R"({"hostname":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})", "hostname: is longer"},
      {R"({"mounts":[{"type":"proc"}]})", "mounts[0].destination: is missing"},
      {R"({"mounts":[{"destination":"/x"}]})", "mounts[0].type: is missing"},
      {R"({"mounts":[{"destination":"/x","type":"nfs"}]})", "mounts[0].type: \"nfs\" is not supported"},
      {R"({"mounts":[{"destination":"/x","type":"bind"}]})", "mounts[0].source: must not be empty"},
      {R"({"mounts":[{"destination":"/x","type":"tmpfs","options":"ro"}]})", "mounts[0].options: must be an array"},
      {R"({"mounts":[7]})", "mounts[0]: must be an object"},
      {R"({"hooks":{"prestart":[{"path":"x"}]}})", "hooks.prestart[0].path: must be an absolute path"},
      {R"({"hooks":{"poststop":[{"path":"/x","timeout":0}]}})", "hooks.poststop[0].timeout: must be from 1"},
      {R"({"annotations":{"a":1}})", "annotations.a: must be a string"},
      {R"({"linux":{"namespaces":[{"type":"net"}]}})", "linux.namespaces[0].type: is not the name of a namespace"},
      {R"({"linux":{"namespaces":[{"type":"user"}]}})", "linux.namespaces[0].type: user namespaces are not supported"},
      {R"({"linux":{"namespaces":[{"type":"pid"},{"type":"pid"}]}})", "linux.namespaces[1].type: is listed twice"},
      {R"({"linux":{"namespaces":[{"type":"pid","path":"x"}]}})", "linux.namespaces[0].path: must be an absolute path"},
      {R"({"linux":{"cgroupsPath":"/a/../../b"}})", "linux.cgroupsPath: must not contain .."},
      {R"({"linux":{"maskedPaths":["x"]}})", "linux.maskedPaths[0]: must be an absolute path"},
      {R"({"linux":{"rootfsPropagation":"x"}})", "linux.rootfsPropagation: is not a kind"},
      {R"({"linux":{"resources":{"memory":{"limit":"1g"}}}})", "linux.resources.memory.limit: must be an integer"},
      {R"({"linux":{"resources":{"memory":{"limit":18446744073709551615}}}})", "linux.resources.memory.limit: must be at most"},
      {R"({"linux":{"resources":{"cpu":{"cpus":"0;1"}}}})", "linux.resources.cpu.cpus: must be a list"},
      {R"({"linux":{"resources":{"unified":{"../x":"1"}}}})", "linux.resources.unified: a key must be the name"},
      {R"({"linux":{"uidMappings":[{}]}})", "linux.uidMappings: user namespaces are not supported"},
  };
  for (const Row& row : rows) {
    Json json = minimal();
    json.merge_patch(Json::parse(row.patch));
    std::string error = error_of(json.dump());
    INFO(row.patch << " -> " << error);
    CHECK(error.find(std::string("config.json: ") + row.expected) == 0);
    CHECK(error.find('\n') == std::string::npos);
  }
}

TEST_CASE("Spec: hostile documents are refused in one line") {
  for (const std::string& text : {std::string(), std::string("{"), std::string("null"), std::string("[1]"), std::string("\xff\xfe"),
                                  std::string(1'000'000, '['), std::string(1'000'000, '{'), std::string(R"({"a":1e999999})")}) {
    std::string error = error_of(text);
    CHECK(error.starts_with("config.json: "));
    CHECK(error.size() < 200);
  }
  std::string deep(500'000, '[');
  deep += std::string(500'000, ']');
  CHECK(error_of(R"({"process":)" + deep + "}") != "");
  CHECK(error_of(R"({"annotations":{"x\ny":1},"ociVersion":"1.0.0"})").find('\n') == std::string::npos);
}

TEST_CASE("Spec: mount options become flags and data") {
  MountOptions o = parse_mount_options({"rbind", "ro", "nosuid", "rw", "noexec", "exec", "mode=755", "size=1m", ""});
  CHECK(o.bind);
  CHECK(o.recursive);
  CHECK(o.flags == MS_NOSUID);
  CHECK(o.data == std::vector<std::string>{"mode=755", "size=1m"});
}

TEST_CASE("Spec: paths are cleaned and stay below the root") {
  CHECK(clean_path("") == "/");
  CHECK(clean_path("../../etc//x/./y/../z/") == "/etc/x/z");
  CHECK(clean_path("/..") == "/");
}

TEST_CASE("Spec: capabilities and limits by name") {
  CHECK(capability_number("CAP_CHOWN") == 0);
  CHECK(capability_number("cap_net_raw") == 13);
  CHECK(capability_number("CHECKPOINT_RESTORE") == 40);
  CHECK(capability_number("CAP_") == -1);
  CHECK(rlimit_number("RLIMIT_NOFILE") == 7);
  CHECK(rlimit_number("NOFILE") == -1);
  CHECK(all_capabilities() == 0x1ffffffffff);
}

TEST_CASE("Spec: unknown newer capabilities are ignored, not fatal") {
  Json json = minimal();
  json.merge_patch(Json::parse(R"({"process":{"capabilities":{"bounding":["CAP_FUTURE","CAP_KILL"]}}})"));
  auto spec = parse_spec(json.dump(), "config.json", "/b");
  REQUIRE(spec.has_value());
  CHECK(spec->container.process.capabilities.bounding == 32);
}

}  // namespace
}  // namespace cli
