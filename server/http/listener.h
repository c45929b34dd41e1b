// Where the HTTP API is reached: the listening socket, its TLS, and how many may come.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/net/x509.h"
#include "server/config.h"
#include "server/http/message.h"

namespace trib::server::http {

// The aggregator's own certificate, for where the configuration names no other.
struct OwnCertificate {
  net::Certificate certificate;
  net::PrivateKey key;
  net::Certificate ca;  // sent along
};

// Runs on `context`; its calls may come from any one thread.
class Listener {
 public:
  // Listens on `config.listen`; answers come once start() is called. `handler` and `clock` outlive it,
  // and `context` does not run when it is destroyed. Errors say which
  // key of the configuration to look at: the address is taken, a certificate cannot be read.
  static Result<std::unique_ptr<Listener>> open(boost::asio::io_context& context, const HttpConfig& config,
                                                const OwnCertificate& own, Handler& handler, const Clock& clock);
  virtual ~Listener() = default;

  virtual void start() = 0;
  virtual std::uint16_t port() const = 0;
  virtual std::string url() const = 0;  // "https://127.0.0.1:7480"
  // From now on connections get this certificate, unless the configuration names another. A configured one is read
  // again when its file has changed.
  virtual Status replace_certificate(const OwnCertificate& own) = 0;
  // No further connection, and none goes on after the answer it is waiting for.
  virtual void close() = 0;
  virtual std::size_t answering() const = 0;  // connections whose request is being read or answered
};

}  // namespace trib::server::http
