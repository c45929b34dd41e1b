#include "common/net/stream_channel.h"

#include <openssl/bio.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <optional>

#include "common/net/address.h"
#include "common/net/coroutine.h"
#include "common/net/packing.h"
#include "common/net/tls_errors.h"

namespace trib::net {
namespace {

using boost::system::error_code;
using SteadyTime = std::chrono::steady_clock::time_point;

// Above this, a receive buffer is given back once frames are small again: an idle connection should cost little.
constexpr std::size_t kept_buffer_bytes = 16u << 10;

std::string in_seconds(Milliseconds duration) {
  const auto count = duration.count();
  return count % 1000 == 0 ? std::to_string(count / 1000) + " s" : std::to_string(count) + " ms";
}

Error closed_here() {
  return {Errc::cancelled, "the connection was closed on this side"};
}

// Hands the right to write from one coroutine to the next, first come, first served.
class Turn {
 public:
  explicit Turn(asio::any_io_executor executor) : executor_(std::move(executor)) {}

  asio::awaitable<void> take() {
    if (!taken_) {
      taken_ = true;
      co_return;
    }
    asio::steady_timer woken(executor_, SteadyTime::max());
    waiting_.push_back(&woken);
    error_code ignored;
    co_await woken.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  void give_back() {
    if (waiting_.empty()) {
      taken_ = false;
      return;
    }
    asio::steady_timer* next = waiting_.front();
    waiting_.pop_front();
    next->cancel();
  }

 private:
  asio::any_io_executor executor_;
  bool taken_ = false;
  std::deque<asio::steady_timer*> waiting_;
};

// The lowest socket of a stream, and its bytes on the wire.
asio::ip::tcp::socket& socket_of(TlsStream& stream) {
  return stream.next_layer();
}
UnixStream& socket_of(UnixStream& stream) {
  return stream;
}

// OpenSSL reads and writes the wire's bytes through memory BIOs, which count them.
std::uint64_t wire_bytes_read(TlsStream& stream, std::uint64_t) {
  return BIO_number_read(SSL_get_rbio(stream.native_handle()));
}
std::uint64_t wire_bytes_written(TlsStream& stream, std::uint64_t) {
  return BIO_number_written(SSL_get_wbio(stream.native_handle()));
}
std::uint64_t wire_bytes_read(UnixStream&, std::uint64_t payload) {
  return payload;
}
std::uint64_t wire_bytes_written(UnixStream&, std::uint64_t payload) {
  return payload;
}

// The state of a connection; coroutines keep it alive, so that a channel may be destroyed while calls are pending.
template <typename Stream>
class Connection : public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, Limits limits)
      : stream_(std::move(stream)),
        limits_(limits),
        turn_(stream_.get_executor()),
        reading_(stream_.get_executor(), limits.idle_timeout,
                 "no byte from the peer for " + in_seconds(limits.idle_timeout) + " (limits.idle_timeout)"),
        writing_(stream_.get_executor(), limits.write_timeout,
                 "the peer took no byte for " + in_seconds(limits.write_timeout) + " (limits.write_timeout)"),
        finished_reading_(stream_.get_executor()) {}

  asio::awaitable<Result<Frame>> receive() {
    auto self = this->shared_from_this();
    if (unreadable_) co_return *unreadable_;
    reading_.active = true;
    Result<Frame> frame = co_await receive_frame();
    reading_.active = false;
    if (finishing_) finished_reading_.cancel();
    if (frame) co_return frame;
    const Errc code = frame.error().code;
    if (code == Errc::protocol_error || code == Errc::limit_exceeded)
      unreadable_ = frame.error();  // the peer can still be told why
    else
      fail(frame.error());
    co_return frame;
  }

  asio::awaitable<Status> send(const google::protobuf::MessageLite& message) {
    auto self = this->shared_from_this();
    const std::size_t size = message.ByteSizeLong();
    if (size > limits_.message_bytes)
      co_return Error{Errc::limit_exceeded,
                      "a message of " + std::to_string(size) +
                          " bytes is over limits.message_bytes = " + std::to_string(limits_.message_bytes)};
    const auto header = FrameCodec::make_header(FrameKind::message, size);
    std::string frame(reinterpret_cast<const char*>(header.data()), header.size());
    if (!message.AppendToString(&frame))
      co_return Error{Errc::internal, "a message of " + std::to_string(size) + " bytes cannot be serialized"};
    const std::array<asio::const_buffer, 1> buffers = {asio::buffer(frame)};
    Status status = co_await write(buffers);
    co_return status;
  }

  asio::awaitable<Status> send_chunk(std::uint32_t transfer_id, std::uint64_t offset, std::span<const std::byte> bytes,
                                     ChunkForm form) {
    auto self = this->shared_from_this();
    if (bytes.empty() || bytes.size() > limits_.chunk_bytes)
      co_return Error{Errc::internal, "a chunk of " + std::to_string(bytes.size()) + " bytes was to be sent"};
    std::vector<std::byte> packed;
    if (form == ChunkForm::packed && pack(bytes, packed)) {
      const auto header =
          FrameCodec::make_header(FrameKind::packed_chunk, FrameCodec::packed_chunk_header_bytes + packed.size());
      const auto chunk_header =
          FrameCodec::make_packed_chunk_header(transfer_id, offset, static_cast<std::uint32_t>(bytes.size()));
      const std::array<asio::const_buffer, 3> buffers = {asio::buffer(header), asio::buffer(chunk_header),
                                                         asio::buffer(packed)};
      Status status = co_await write(buffers);
      co_return status;
    }
    const auto header = FrameCodec::make_header(FrameKind::chunk, FrameCodec::chunk_header_bytes + bytes.size());
    const auto chunk_header = FrameCodec::make_chunk_header(transfer_id, offset);
    const std::array<asio::const_buffer, 3> buffers = {asio::buffer(header), asio::buffer(chunk_header),
                                                       asio::buffer(bytes.data(), bytes.size())};
    Status status = co_await write(buffers);
    co_return status;
  }

  asio::awaitable<void> finish(Milliseconds patience) {
    auto self = this->shared_from_this();
    if (failure_ || finishing_) co_return;
    finishing_ = true;
    error_code ignored;
    socket_of(stream_).shutdown(asio::socket_base::shutdown_send, ignored);
    finished_reading_.expires_after(patience);
    if (reading_.active) co_await finished_reading_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    finished_reading_.async_wait([self](const error_code& error) {
      if (!error) self->close_socket();
    });
    std::vector<std::byte> scrap(kept_buffer_bytes);
    error_code ended;
    while (!ended)
      co_await socket_of(stream_).async_read_some(asio::buffer(scrap),
                                                  asio::redirect_error(asio::use_awaitable, ended));
    close();
  }

  void close() { fail(closed_here()); }

  asio::any_io_executor executor() { return stream_.get_executor(); }
  std::uint64_t bytes_sent() { return wire_bytes_written(stream_, payload_sent_); }
  std::uint64_t bytes_received() { return wire_bytes_read(stream_, payload_received_); }

 private:
  // A bound on one direction's waiting. The timer is armed at most once per period, not once per read.
  struct Watch {
    Watch(asio::any_io_executor executor, Milliseconds period, std::string problem)
        : timer(std::move(executor)), timeout(period), message(std::move(problem)) {}
    asio::steady_timer timer;
    Milliseconds timeout;
    std::string message;
    bool active = false;
    bool armed = false;
    SteadyTime deadline;
  };

  void extend(Watch& watch) {
    watch.deadline = std::chrono::steady_clock::now() + watch.timeout;
    if (!watch.armed) arm(watch);
  }

  void arm(Watch& watch) {
    watch.armed = true;
    watch.timer.expires_at(watch.deadline);
    watch.timer.async_wait([weak = this->weak_from_this(), &watch](const error_code& error) {
      const auto self = weak.lock();
      if (!self) return;
      watch.armed = false;
      if (error || !watch.active) return;
      if (std::chrono::steady_clock::now() < watch.deadline)
        self->arm(watch);
      else
        self->fail({Errc::deadline_exceeded, watch.message});
    });
  }

  // The first failure is the one that every later call reports.
  void fail(Error error) {
    if (failure_) return;
    failure_ = std::move(error);
    reading_.timer.cancel();
    writing_.timer.cancel();
    finished_reading_.cancel();
    close_socket();
  }

  void close_socket() {
    error_code ignored;
    socket_of(stream_).shutdown(asio::socket_base::shutdown_both, ignored);
    socket_of(stream_).close(ignored);
  }

  asio::awaitable<Result<Frame>> receive_frame() {
    std::array<std::byte, FrameCodec::header_bytes> header_bytes;
    TRIB_CO_TRY(co_await read(header_bytes, "between two frames"));
    TRIB_CO_ASSIGN(const FrameCodec::Header header, FrameCodec::parse_header(header_bytes, limits_));
    if (header.payload_bytes <= kept_buffer_bytes && buffer_.capacity() + unpacked_.capacity() > kept_buffer_bytes) {
      std::vector<std::byte>().swap(buffer_);
      std::vector<std::byte>().swap(unpacked_);
    }
    buffer_.resize(header.payload_bytes);
    TRIB_CO_TRY(co_await read(buffer_, "within a frame"));
    Frame frame;
    frame.kind = header.kind;
    if (header.kind == FrameKind::message) {
      frame.message = buffer_;
    } else if (header.kind == FrameKind::packed_chunk) {
      frame.kind = FrameKind::chunk;
      TRIB_CO_ASSIGN(frame.chunk, FrameCodec::unpack_chunk(buffer_, limits_, unpacked_));
    } else {
      TRIB_CO_ASSIGN(frame.chunk, FrameCodec::parse_chunk(buffer_));
    }
    co_return frame;
  }

  asio::awaitable<Status> read(std::span<std::byte> to, std::string_view where) {
    std::size_t done = 0;
    while (done < to.size()) {
      if (failure_) co_return *failure_;
      if (finishing_) co_return closed_here();
      extend(reading_);
      error_code error;
      const std::size_t count = co_await stream_.async_read_some(asio::buffer(to.data() + done, to.size() - done),
                                                                 asio::redirect_error(asio::use_awaitable, error));
      if (failure_) co_return *failure_;
      if (error) {
        Error described = describe_stream_error(error);
        if (described.code == Errc::unavailable) described.message += " " + std::string(where);
        co_return described;
      }
      done += count;
      payload_received_ += count;
    }
    co_return Status();
  }

  template <typename Buffers>
  asio::awaitable<Status> write(const Buffers& buffers) {
    co_await turn_.take();
    if (failure_ || finishing_) {
      turn_.give_back();
      if (failure_) co_return *failure_;
      co_return closed_here();
    }
    writing_.active = true;
    extend(writing_);
    error_code error;
    payload_sent_ += co_await asio::async_write(stream_, buffers, asio::redirect_error(asio::use_awaitable, error));
    writing_.active = false;
    if (error) fail(describe_stream_error(error));
    turn_.give_back();
    if (failure_) co_return *failure_;
    co_return Status();
  }

  Stream stream_;
  Limits limits_;
  Turn turn_;
  Watch reading_, writing_;
  asio::steady_timer finished_reading_;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> unpacked_;
  std::optional<Error> failure_;
  std::optional<Error> unreadable_;  // what the peer sent makes no sense; nothing after it would
  bool finishing_ = false;
  std::uint64_t payload_sent_ = 0, payload_received_ = 0;
};

template <typename Stream>
class StreamChannel final : public Channel {
 public:
  StreamChannel(Stream stream, PeerIdentity peer, std::string protocol, std::string remote_address, Limits limits)
      : connection_(std::make_shared<Connection<Stream>>(std::move(stream), limits)),
        peer_(std::move(peer)),
        protocol_(std::move(protocol)),
        remote_address_(std::move(remote_address)) {}
  ~StreamChannel() override { connection_->close(); }
  StreamChannel(const StreamChannel&) = delete;
  StreamChannel& operator=(const StreamChannel&) = delete;

  asio::awaitable<Result<Frame>> receive() override { return connection_->receive(); }
  asio::awaitable<Status> send(const google::protobuf::MessageLite& message) override {
    return connection_->send(message);
  }
  asio::awaitable<Status> send_chunk(std::uint32_t transfer_id, std::uint64_t offset, std::span<const std::byte> bytes,
                                     ChunkForm form) override {
    return connection_->send_chunk(transfer_id, offset, bytes, form);
  }
  void close() override { connection_->close(); }
  asio::awaitable<void> finish(Milliseconds patience) override { return connection_->finish(patience); }
  const PeerIdentity& peer() const override { return peer_; }
  std::string protocol() const override { return protocol_; }
  std::string remote_address() const override { return remote_address_; }
  std::uint64_t bytes_sent() const override { return connection_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return connection_->bytes_received(); }
  asio::any_io_executor executor() override { return connection_->executor(); }

 private:
  std::shared_ptr<Connection<Stream>> connection_;
  PeerIdentity peer_;
  std::string protocol_;
  std::string remote_address_;
};

}  // namespace

std::unique_ptr<Channel> make_tls_channel(TlsStream stream, PeerIdentity peer, std::string protocol, Limits limits) {
  error_code error;
  const auto endpoint = stream.next_layer().remote_endpoint(error);
  const std::string address = error ? "unknown" : HostPort{endpoint.address().to_string(), endpoint.port()}.to_string();
  return std::make_unique<StreamChannel<TlsStream>>(std::move(stream), std::move(peer), std::move(protocol), address,
                                                    limits);
}

std::unique_ptr<Channel> make_unix_channel(UnixStream stream, Limits limits) {
  return std::make_unique<StreamChannel<UnixStream>>(std::move(stream), PeerIdentity{}, std::string(), "unix socket",
                                                     limits);
}

}  // namespace trib::net
