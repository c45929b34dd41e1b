// The operator's line to the aggregator: its Unix socket on the same machine, or TLS with an operator's certificate.
#pragma once

#include <boost/json/value.hpp>
#include <functional>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "common/result.h"
#include "proto/tributary.pb.h"

namespace trib::cli {

class AdminClient {
 public:
  // Resolves `options.server`: an aggregator's directory or socket (default: $TRIBUTARY_SERVER, then ./federation), or
  // host:port with `options.credentials`. Errc::unavailable says how to start or reach the aggregator.
  static Result<AdminClient> connect(const ServerOptions& options);
  AdminClient(AdminClient&&) noexcept;
  AdminClient& operator=(AdminClient&&) noexcept;
  ~AdminClient();

  // One request, one reply: its JSON document. The aggregator's refusal comes back as the Error that it is.
  Result<boost::json::value> request(const tributary::proto::AdminRequest& request);
  // The whole reply, for files.
  Result<tributary::proto::AdminReply> exchange(const tributary::proto::AdminRequest& request);
  // A stream of documents until the aggregator ends it or `on_document` returns false.
  Status watch(const tributary::proto::AdminRequest& request,
               const std::function<bool(const boost::json::value&)>& on_document);

 private:
  struct Impl;
  explicit AdminClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::cli
