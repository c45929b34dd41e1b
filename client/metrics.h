// The client's metrics and health, for the site's own monitoring: `metrics.listen` in client.toml, off by default.
// Nothing here is computed from records; the training loss stays on the site's screen.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/site_status.h"
#include "common/net/address.h"
#include "common/result.h"

namespace trib::client {

// What a data set's ledger and the site's configuration say.
struct DataSetMetrics {
  std::string name;
  double epsilon_spent = 0.0;   // infinite: read without privacy
  double epsilon_budget = 0.0;  // 0: none is configured
};

// Since the start of the process.
struct RoundCounts {
  std::uint64_t trained = 0, declined = 0;
};

// The exposition (common/prometheus.h).
std::string client_metrics_text(const SiteStatus& status, const std::vector<DataSetMetrics>& data_sets,
                                const RoundCounts& rounds, std::int64_t ledger_entries);

// GET /metrics, /healthz (200: the process lives) and /readyz (200 while it is connected, else 503), over plain
// HTTP/1.1. Requests are bounded in size, number and time.
class MetricsServer {
 public:
  struct Pages {
    std::function<std::string()> metrics;
    std::function<bool()> is_ready;
  };
  // Errc::unavailable if the port is taken. `pages` are called on `context`.
  static Result<std::unique_ptr<MetricsServer>> start(boost::asio::io_context& context, const net::HostPort& address,
                                                      Pages pages);
  ~MetricsServer();
  std::uint16_t port() const;

 private:
  struct Impl;
  explicit MetricsServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace trib::client
