// SPDX-License-Identifier: Apache-2.0
// Reads a JSON document that may be hostile: nothing throws, every type and range is checked, and the first thing
// found wrong is kept as one line that names the field by its path ("process.args[0]: must be a string").
// A heavy header: for .cc files only.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/host/host_error.h"

namespace base {

using Json = nlohmann::json;

HostResult<Json> parse_json(std::string_view text);

// One line of JSON. Bytes that are not UTF-8 become U+FFFD.
std::string dump_json(const Json& json);

bool is_utf8(std::string_view text);

// A place in a document, maybe absent. Getters leave `out` alone when the key is absent or null; after the first
// error every reader of the document does nothing, so that a parser is a straight list of getters and one check.
class JsonReader {
 public:
  enum class Need : uint8_t { kOptional, kRequired };

  JsonReader(const Json& root, std::string* error) : node_(&root), error_(error) {}

  bool present() const { return node_ != nullptr; }
  bool is_object() const { return node_ && node_->is_object(); }
  bool ok() const { return error_->empty(); }
  const std::string& path() const { return path_; }
  const Json* node() const { return node_; }

  void fail(std::string_view what) const;                            // at this place
  void fail(std::string_view key, std::string_view what) const;     // at a member of it
  void must_be_object() const;

  bool has(const char* key) const { return member(key) != nullptr; }
  JsonReader object(const char* key, Need need = Need::kOptional) const;
  std::vector<JsonReader> array(const char* key, size_t max_count, Need need = Need::kOptional) const;
  std::vector<std::string> keys() const;

  // Strings must not hold NUL bytes: they end up in system calls.
  bool string(const char* key, std::string& out, Need need = Need::kOptional) const;
  bool strings(const char* key, std::vector<std::string>& out, size_t max_count = kManyStrings) const;
  bool string_map(const char* key, std::map<std::string, std::string>& out) const;
  bool boolean(const char* key, bool& out) const;
  template <typename T>
  bool integer(const char* key, T& out, Need need = Need::kOptional) const {
    return integer(key, out, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), need);
  }
  template <typename T>
  bool integer(const char* key, T& out, T min, T max, Need need = Need::kOptional) const {
    if constexpr (std::is_signed_v<T>) {
      int64_t v = 0;
      if (!signed_in(key, v, min, max, need)) return false;
      out = static_cast<T>(v);
    } else {
      uint64_t v = 0;
      if (!unsigned_in(key, v, min, max, need)) return false;
      out = static_cast<T>(v);
    }
    return true;
  }
  template <typename T>
  bool integers(const char* key, std::vector<T>& out, size_t max_count) const {
    for (const JsonReader& item : array(key, max_count)) {
      uint64_t v = 0;
      if (!item.own_unsigned(v, std::numeric_limits<T>::max())) return false;
      out.push_back(static_cast<T>(v));
    }
    return ok();
  }
  bool own_string(std::string& out) const;  // this place itself

  static constexpr size_t kManyStrings = 1 << 20;

 private:
  JsonReader(const Json* node, std::string path, std::string* error)
      : node_(node), path_(std::move(path)), error_(error) {}
  const Json* member(const char* key) const;
  const Json* want(const char* key, Need need) const;
  std::string join(std::string_view key) const;
  bool signed_in(const char* key, int64_t& out, int64_t min, int64_t max, Need need) const;
  bool unsigned_in(const char* key, uint64_t& out, uint64_t min, uint64_t max, Need need) const;
  bool own_unsigned(uint64_t& out, uint64_t max) const;

  const Json* node_;
  std::string path_;
  std::string* error_;
};

}  // namespace base
