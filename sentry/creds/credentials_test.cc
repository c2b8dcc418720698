// SPDX-License-Identifier: Apache-2.0
#include "sentry/creds/credentials.h"

#undef CHECK
#include <catch2/catch.hpp>

namespace sentry::creds {
namespace {

using enum abi::Errno;

base::RefPtr<Credentials> plain_user(uint32_t uid) {
  auto c = base::make_ref<Credentials>();
  c->uid = c->euid = c->suid = c->fsuid = abi::KUid(uid);
  c->gid = c->egid = c->sgid = c->fsgid = abi::KGid(uid);
  c->user_ns = UserNamespace::create_root();
  return c;
}

TEST_CASE("Permission bits of the first class that matches decide", "[creds]") {
  auto c = plain_user(1000);
  CHECK(check_permission(*c, {abi::KUid(1000), abi::KGid(0), 0100600}, 6));
  CHECK_FALSE(check_permission(*c, {abi::KUid(1000), abi::KGid(0), 0100077}, 4));
  CHECK_FALSE(check_permission(*c, {abi::KUid(1), abi::KGid(1000), 0100707}, 4));
  CHECK(check_permission(*c, {abi::KUid(1), abi::KGid(1), 0100704}, 4));
  c->groups = {abi::KGid(7)};
  CHECK(check_permission(*c, {abi::KUid(1), abi::KGid(7), 0100040}, 4));
}

TEST_CASE("Root executes only what has an x bit", "[creds]") {
  auto c = Credentials::create_root(UserNamespace::create_root());
  CHECK(check_permission(*c, {abi::KUid(5), abi::KGid(5), 0100000}, 6));
  CHECK(check_permission(*c, {abi::KUid(5), abi::KGid(5), 0100000}, 1).error() == kEACCES);
  CHECK(check_permission(*c, {abi::KUid(5), abi::KGid(5), 0100001}, 1));
  CHECK(check_permission(*c, {abi::KUid(5), abi::KGid(5), 0040000}, 7));
}

TEST_CASE("A child namespace maps through its parent and only once", "[creds]") {
  auto root = UserNamespace::create_root();
  auto child = *UserNamespace::create_child(root, abi::KUid(1000), abi::KGid(1000));
  CHECK(child->unmap_uid(abi::KUid(1000)).value() == kOverflowId);
  CHECK(child->set_uid_map({{0, 1000, 1}, {1, 5000, 10}}));
  CHECK(child->set_uid_map({{0, 1000, 1}}).error() == kEPERM);
  CHECK(child->map_uid(abi::Uid(0)) == abi::KUid(1000));
  CHECK(child->map_uid(abi::Uid(3)) == abi::KUid(5002));
  CHECK_FALSE(child->map_uid(abi::Uid(11)));
  auto grand = UserNamespace::create_child(child, abi::KUid(5001), abi::KGid(0));
  CHECK(grand.error() == kEPERM);  // group 0 of the root is unknown to the child
  CHECK(child->set_gid_map({{0, 1000, 1}}));
  grand = UserNamespace::create_child(child, abi::KUid(5001), abi::KGid(1000));
  REQUIRE(grand);
  CHECK((*grand)->set_uid_map({{0, 20, 1}}).error() == kEPERM);
  CHECK((*grand)->set_uid_map({{0, 2, 2}}));
  CHECK((*grand)->map_uid(abi::Uid(1)) == abi::KUid(5002));
  CHECK((*grand)->is_descendant_of(*root));
  CHECK_FALSE(root->is_descendant_of(**grand));
}

TEST_CASE("Malformed maps are EINVAL", "[creds]") {
  auto root = UserNamespace::create_root();
  auto child = *UserNamespace::create_child(root, abi::KUid(0), abi::KGid(0));
  CHECK(child->set_uid_map({}).error() == kEINVAL);
  CHECK(child->set_uid_map({{0, 0, 0}}).error() == kEINVAL);
  CHECK(child->set_uid_map({{0xfffffff0u, 0, 0x20}}).error() == kEINVAL);
  CHECK(child->set_uid_map({{0, 0, 10}, {5, 100, 10}}).error() == kEINVAL);
  CHECK(child->set_uid_map(std::vector<IdMapEntry>(341, IdMapEntry{1, 1, 1})).error() == kEINVAL);
}

TEST_CASE("The owner of a namespace has every capability in it, from its parent", "[creds]") {
  auto root = UserNamespace::create_root();
  auto child = *UserNamespace::create_child(root, abi::KUid(1000), abi::KGid(1000));
  auto owner = plain_user(1000);
  owner->user_ns = root;
  auto other = plain_user(1001);
  other->user_ns = root;
  CHECK(owner->has_cap_in(Cap::kSYS_ADMIN, *child));
  CHECK_FALSE(owner->has_cap_in(Cap::kSYS_ADMIN, *root));
  CHECK_FALSE(other->has_cap_in(Cap::kSYS_ADMIN, *child));
  auto inside = Credentials::create_root(child);
  CHECK(inside->has_cap_in(Cap::kSYS_ADMIN, *child));
  CHECK_FALSE(inside->has_cap_in(Cap::kSYS_ADMIN, *root));
}

}  // namespace
}  // namespace sentry::creds
