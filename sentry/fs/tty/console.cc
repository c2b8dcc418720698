// SPDX-License-Identifier: Apache-2.0
// The pump between a guest terminal and a host terminal descriptor.
//
// The descriptor is shared with the CLI's terminal, so it must stay in blocking mode. Reading follows the reactor's
// word; writing goes at once while poll(2) says there is room, and otherwise through the blocking pool.
#include "sentry/fs/tty/console.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sentry/fs/tty/tty.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/devices.h"

namespace sentry::fs {

using enum abi::Errno;
using base::err;
using base::RefPtr;
using base::Result;

namespace {

constexpr size_t kDirectChunk = 1024;
constexpr uint32_t kPtsMajor = 136;

// Owned by the terminal until its last program has closed it; callbacks and jobs under way hold it as well.
class ConsolePump final : public base::RefCounted, public Tty::Sink {
 public:
  // `devpts`: where the terminal has its name, or null.
  ConsolePump(kernel::Kernel& kernel, base::UniqueFd fd, RefPtr<Tty> tty, RefPtr<vfs::FileSystem> devpts)
      : kernel_(kernel), fd_(std::move(fd)), tty_(std::move(tty)), devpts_(std::move(devpts)) {}

  void start() {
    tty_->set_sink(this, RefPtr<ConsolePump>(this));
    resume();
  }

  void output_ready() override {
    {
      base::MutexLock lock(mu_);
      if (writing_ || finished_) return;
      writing_ = true;
    }
    drain();
  }
  void closed() override {
    output_ready();
    stop_watching();
    // The pump goes with its last user, so nobody may come back.
    remove_node();
    base::MutexLock lock(mu_);
    finished_ = true;
  }
  void input_room() override {
    {
      base::MutexLock lock(mu_);
      if (!paused_ || finished_) return;
      paused_ = false;
    }
    RefPtr<ConsolePump> self(this);
    kernel_.reactor().post([self] { self->resume(); });
  }

 private:
  void resume() {
    RefPtr<ConsolePump> self(this);
    const kernel::Reactor::WatchId id = kernel_.reactor().on_readable(fd_.get(), [self] { self->on_readable(); });
    bool late;
    {
      base::MutexLock lock(mu_);
      late = finished_;
      if (!late) watch_ = id;
    }
    if (late) kernel_.reactor().unwatch(id);
  }
  void stop_watching() {
    kernel::Reactor::WatchId id;
    {
      base::MutexLock lock(mu_);
      id = std::exchange(watch_, 0);
    }
    if (id != 0) kernel_.reactor().unwatch(id);
  }

  // On the reactor's thread.
  void on_readable() {
    RefPtr<ConsolePump> self(this);
    const size_t room = tty_->input_room();
    if (room == 0) {
      {
        base::MutexLock lock(mu_);
        paused_ = true;
      }
      stop_watching();
      // The reader may have made room before the pause was announced.
      if (tty_->input_room() != 0) input_room();
      return;
    }
    char bytes[1024];
    const ssize_t n = ::read(fd_.get(), bytes, std::min(sizeof bytes, room));
    if (n > 0) {
      tty_->input({bytes, static_cast<size_t>(n)});
      return;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    stop_watching();
    finish();
  }

  void finish() {
    {
      base::MutexLock lock(mu_);
      if (finished_) return;
      finished_ = true;
    }
    tty_->hang_up();
    remove_node();
  }
  void remove_node() {
    if (devpts_) remove_pts(*devpts_, *tty_);
  }

  // Whoever set writing_ empties the terminal's output.
  void drain() {
    for (;;) {
      pollfd p{fd_.get(), POLLOUT, 0};
      if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) {
        if (tty_->output_size() != 0) {
          RefPtr<ConsolePump> self(this);
          return kernel_.scheduler().run_blocking([self] { self->drain_blocking(); });
        }
      } else if (std::string bytes = tty_->take_output(kDirectChunk); !bytes.empty()) {
        if (!write_all(bytes)) return;
        continue;
      }
      if (done_writing()) return;
    }
  }
  void drain_blocking() {
    for (;;) {
      const std::string bytes = tty_->take_output(8192);
      if (!bytes.empty()) {
        if (!write_all(bytes)) return;
      } else if (done_writing()) {
        return;
      }
    }
  }
  bool done_writing() {
    {
      base::MutexLock lock(mu_);
      writing_ = false;
    }
    // Output that came before writing_ was cleared was not announced again.
    if (tty_->output_size() == 0) return true;
    base::MutexLock lock(mu_);
    return std::exchange(writing_, true);
  }
  // A host terminal that is gone takes nothing more: writing_ stays set.
  bool write_all(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) {
        pollfd p{fd_.get(), POLLOUT, 0};
        (void)poll(&p, 1, -1);
        continue;
      }
      finish();
      return false;
    }
    return true;
  }

  kernel::Kernel& kernel_;
  const base::UniqueFd fd_;
  const RefPtr<Tty> tty_;
  const RefPtr<vfs::FileSystem> devpts_;
  base::Mutex mu_{base::LockRank::kPipe};
  kernel::Reactor::WatchId watch_ GUARDED_BY(mu_) = 0;
  bool writing_ GUARDED_BY(mu_) = false, paused_ GUARDED_BY(mu_) = false, finished_ GUARDED_BY(mu_) = false;
};

// /dev/tty: the terminal of the opener's session.
Result<RefPtr<vfs::FileDescription>> open_controlling_tty(vfs::OpContext& ctx, const vfs::Path& path, uint32_t flags,
                                                          abi::DeviceId) {
  if (!ctx.task()) return err(kENXIO);
  RefPtr<base::RefCounted> tty = ctx.task()->thread_group().controlling_tty();
  if (!tty) return err(kENXIO);
  return RefPtr<vfs::FileDescription>(base::make_ref<TtyFile>(path, flags, base::static_ref_cast<Tty>(tty)));
}

}  // namespace

Result<Console> create_console(kernel::Kernel& kernel, vfs::OpContext& ctx, ConsoleArgs args) {
  WindowSize size{args.rows, args.columns, 0, 0};
  if (args.rows == 0 && args.columns == 0) {
    winsize w{};
    if (ioctl(args.host_fd.get(), TIOCGWINSZ, &w) == 0) size = {w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel};
  }
  Pts pts;
  RefPtr<vfs::FileSystem> devpts;
  if (auto found = vfs::walk(ctx, ctx.root(), "/dev/pts", vfs::kLookupFollow | vfs::kLookupDirectory)) {
    if (auto made = create_pts(ctx, found->path, args.owner)) {
      pts = std::move(*made);
      devpts = RefPtr<vfs::FileSystem>(&pts.path.mount->fs());
    }
  }
  Console console;
  console.has_node = devpts != nullptr;
  if (!console.has_node) {
    // A number that no devpts instance gives out.
    static std::atomic<uint32_t> next{4096};
    pts.tty = base::make_ref<Tty>(abi::DeviceId{kPtsMajor, next.fetch_add(1)});
    pts.path = vfs::make_anonymous_path("/dev/console", abi::kS_IFCHR | 0620, ctx.creds());
  }
  pts.tty->set_window(size);
  console.file = base::make_ref<TtyFile>(std::move(pts.path), vfs::kO_RDWR, pts.tty);
  console.controlling_tty = pts.tty;
  console.device = static_cast<uint32_t>(pts.tty->device().encoded());
  base::make_ref<ConsolePump>(kernel, std::move(args.host_fd), pts.tty, std::move(devpts))->start();
  return console;
}

void resize_console(base::RefCounted& controlling_tty, uint16_t columns, uint16_t rows) {
  static_cast<Tty&>(controlling_tty).set_window({rows, columns, 0, 0});
}

void register_terminals(kernel::Kernel&) {
  vfs::register_device({vfs::DeviceClass::kChar, 5, 0, 1, "/dev/tty", open_controlling_tty});
  register_devpts();
}

}  // namespace sentry::fs
