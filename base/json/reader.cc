// SPDX-License-Identifier: Apache-2.0
#include "base/json/reader.h"

#include <fmt/format.h>

namespace base {

HostResult<Json> parse_json(std::string_view text) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return HostErr(HostError::plain("not valid JSON"));
  return json;
}

std::string dump_json(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool is_utf8(std::string_view text) {
  size_t i = 0;
  auto at = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  while (i < text.size()) {
    unsigned char lead = at(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i <= more) return false;
    uint32_t code = lead & (0x3fu >> more);
    for (size_t k = 1; k <= more; ++k) {
      if ((at(i + k) & 0xc0) != 0x80) return false;
      code = code << 6 | (at(i + k) & 0x3fu);
    }
    if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10ffff))) return false;
    if (code >= 0xd800 && code <= 0xdfff) return false;
    i += more + 1;
  }
  return true;
}

void JsonReader::fail(std::string_view what) const {
  if (!error_->empty()) return;
  *error_ = path_.empty() ? std::string(what) : fmt::format("{}: {}", path_, what);
}

void JsonReader::fail(std::string_view key, std::string_view what) const {
  if (error_->empty()) *error_ = fmt::format("{}: {}", join(key), what);
}

void JsonReader::must_be_object() const {
  if (node_ && !node_->is_object()) fail("must be an object");
}

std::string JsonReader::join(std::string_view key) const {
  // A key of the document may be anything: keep the message one short printable line.
  std::string clean;
  for (char c : key.substr(0, 80)) clean += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return path_.empty() ? clean : path_ + "." + clean;
}

const Json* JsonReader::member(const char* key) const {
  if (!node_ || !node_->is_object()) return nullptr;
  auto it = node_->find(key);
  if (it == node_->end() || it->is_null()) return nullptr;
  return &*it;
}

const Json* JsonReader::want(const char* key, Need need) const {
  if (!ok()) return nullptr;
  const Json* found = member(key);
  if (!found && need == Need::kRequired) fail(key, "is missing");
  return found;
}

JsonReader JsonReader::object(const char* key, Need need) const {
  const Json* found = want(key, need);
  if (found && !found->is_object()) {
    fail(key, "must be an object");
    found = nullptr;
  }
  return JsonReader(found, join(key), error_);
}

std::vector<JsonReader> JsonReader::array(const char* key, size_t max_count, Need need) const {
  std::vector<JsonReader> out;
  const Json* found = want(key, need);
  if (!found) return out;
  if (!found->is_array()) {
    fail(key, "must be an array");
    return out;
  }
  if (found->size() > max_count) {
    fail(key, fmt::format("has {} entries, at most {} are allowed", found->size(), max_count));
    return out;
  }
  std::string base = join(key);
  out.reserve(found->size());
  for (size_t i = 0; i < found->size(); ++i) out.push_back({&(*found)[i], fmt::format("{}[{}]", base, i), error_});
  return out;
}

std::vector<std::string> JsonReader::keys() const {
  std::vector<std::string> out;
  if (!is_object()) return out;
  for (const auto& [key, value] : node_->items()) out.push_back(key);
  return out;
}

bool JsonReader::own_string(std::string& out) const {
  if (!ok() || !node_) return false;
  const auto* text = node_->get_ptr<const std::string*>();
  if (!text) {
    fail("must be a string");
    return false;
  }
  if (text->find('\0') != std::string::npos) {
    fail("must not contain a NUL byte");
    return false;
  }
  out = *text;
  return true;
}

bool JsonReader::string(const char* key, std::string& out, Need need) const {
  const Json* found = want(key, need);
  return found && JsonReader(found, join(key), error_).own_string(out);
}

bool JsonReader::strings(const char* key, std::vector<std::string>& out, size_t max_count) const {
  for (const JsonReader& item : array(key, max_count)) {
    std::string text;
    if (!item.own_string(text)) return false;
    out.push_back(std::move(text));
  }
  return ok();
}

bool JsonReader::string_map(const char* key, std::map<std::string, std::string>& out) const {
  JsonReader map = object(key);
  if (!map.present()) return ok();
  for (const auto& [name, value] : map.node()->items()) {
    if (name.find('\0') != std::string::npos) map.fail("a key must not contain a NUL byte");
    std::string text;
    if (!JsonReader(&value, map.join(name), error_).own_string(text)) return false;
    out.emplace(name, std::move(text));
  }
  return ok();
}

bool JsonReader::boolean(const char* key, bool& out) const {
  const Json* found = want(key, Need::kOptional);
  if (!found) return false;
  const auto* value = found->get_ptr<const bool*>();
  if (!value) {
    fail(key, "must be true or false");
    return false;
  }
  out = *value;
  return true;
}

bool JsonReader::signed_in(const char* key, int64_t& out, int64_t min, int64_t max, Need need) const {
  const Json* found = want(key, need);
  if (!found) return false;
  int64_t value = 0;
  if (const auto* u = found->get_ptr<const Json::number_unsigned_t*>()) {
    // Positive literals are stored unsigned.
    if (*u > static_cast<uint64_t>(INT64_MAX)) return fail(key, fmt::format("must be at most {}", max)), false;
    value = static_cast<int64_t>(*u);
  } else if (const auto* i = found->get_ptr<const Json::number_integer_t*>()) {
    value = *i;
  } else {
    return fail(key, "must be an integer"), false;
  }
  if (value < min || value > max) return fail(key, fmt::format("must be from {} to {}", min, max)), false;
  out = value;
  return true;
}

bool JsonReader::unsigned_in(const char* key, uint64_t& out, uint64_t min, uint64_t max, Need need) const {
  const Json* found = want(key, need);
  if (!found) return false;
  uint64_t value = 0;
  if (!JsonReader(found, join(key), error_).own_unsigned(value, max)) return false;
  if (value < min) return fail(key, fmt::format("must be from {} to {}", min, max)), false;
  out = value;
  return true;
}

bool JsonReader::own_unsigned(uint64_t& out, uint64_t max) const {
  if (!ok() || !node_) return false;
  const auto* u = node_->get_ptr<const Json::number_unsigned_t*>();
  if (u && *u <= max) {
    out = *u;
    return true;
  }
  // A number made by this process rather than parsed may be a non-negative signed one.
  const auto* i = node_->get_ptr<const Json::number_integer_t*>();
  if (!u && i && *i >= 0 && static_cast<uint64_t>(*i) <= max) {
    out = static_cast<uint64_t>(*i);
    return true;
  }
  fail(node_->is_number_integer() ? fmt::format("must be from 0 to {}", max) : "must be an integer");
  return false;
}

}  // namespace base
