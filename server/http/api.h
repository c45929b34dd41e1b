// The HTTP API: which requests there are, who may make them, and what answers them. openapi.json says the same to
// programs; a test holds the two against each other.
#pragma once

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/dashboard/assets.h"
#include "server/http/access.h"
#include "server/http/documents.h"
#include "server/http/events.h"
#include "server/http/message.h"
#include "server/operations.h"
#include "server/rate_limit.h"

namespace trib::server::http {

enum class Audience { anyone, viewers, operators };

struct Route {
  std::string_view method;
  std::string_view pattern;  // "/api/v1/jobs/{id}"
  Audience audience = Audience::viewers;
};

// What other parts of the aggregator know. Any of them may be empty. Each says where it is called.
struct Sources {
  Reports reports;
  // The newest signed statement of a site, and the same as a page; nothing if the site has sent none. In the
  // background.
  std::function<Result<std::optional<std::string>>(const std::string&site)> statement, statement_page;
  std::function<std::string()> metrics;  // Prometheus text; on the daemon's executor
  // On the daemon's executor, some time after the answer.
  std::function<void(std::string_view route, int status, double seconds)> count_request;
  std::function<Status()> check_storage;  // in the background
  std::vector<Asset> files;               // of the dashboard
};

// Runs on `executor`, which has a thread of its own: the daemon's may write to disk for a while, and who reads is not
// to wait for that. What belongs to the daemon's executor (operations, coordinator) is called there. `background`
// reports on `executor`.
class Api final : public Handler {
 public:
  // Everything outlives it, and neither executor runs any more when it is destroyed.
  Api(Operations& operations, Coordinator& coordinator, AccessTokens& tokens, boost::asio::any_io_executor daemon,
      WorkQueue& background, boost::asio::any_io_executor executor, const Clock& clock, const HttpConfig& config,
      Sources sources);

  std::optional<Response> check_head(const Request& request) override;
  boost::asio::awaitable<Response> answer(const Request& request) override;
  // The aggregator is going down: streams end, and no new one begins. From any thread.
  void drain();

  static std::vector<Route> routes();

 private:
  struct Call {
    const Request& request;
    std::vector<std::string> parameters;  // of the pattern, in order
    std::optional<Identity> identity;     // never empty where the audience is not anyone
    std::string by() const { return identity ? identity->in_log() : "somebody"; }
  };
  using Answer = boost::asio::awaitable<Response>;
  struct Endpoint {
    Route route;
    Answer (Api::*answer)(const Call&);
  };
  struct Match {
    const Endpoint* endpoint = nullptr;
    std::vector<std::string> parameters;
    std::string allowed;  // methods of this path, where the method is another
  };
  static std::span<const Endpoint> endpoints();
  static Match match(const Request& request);
  bool is_for_anyone(const Route& route) const;
  Result<std::optional<Identity>> admit(const Request& request, const Route& route);
  std::optional<Response> refusal(const Request& request, const Match& match);
  const Asset* find_file(const Request& request) const;
  Response file_response(const Request& request, const Asset& file) const;
  void count(std::string_view route, int status, double seconds);
  // Makes a change on the daemon's executor; who asks next sees it. (g++ 12 destroys a lambda twice that is made within
  // a co_await, so callers name theirs.)
  using Operation = std::function<Result<std::string>()>;
  boost::asio::awaitable<Response> change(Operation operation);
  Response changed(const Result<std::string>& document);
  using Statement = std::function<Result<std::optional<std::string>>(const std::string& site)>;
  boost::asio::awaitable<Result<std::string>> read_statement(Statement source, std::string site);

  Answer get_federation(const Call& call);
  Answer get_sites(const Call& call);
  Answer get_statement(const Call& call);
  Answer get_statement_page(const Call& call);
  Answer get_jobs(const Call& call);
  Answer get_job(const Call& call);
  Answer get_job_file(const Call& call);
  Answer get_privacy(const Call& call);
  Answer get_privacy_history(const Call& call);
  Answer get_events(const Call& call);
  Answer get_openapi(const Call& call);
  Answer get_session(const Call& call);
  Answer post_session(const Call& call);
  Answer delete_session(const Call& call);
  Answer post_invite(const Call& call);
  Answer post_revocation(const Call& call);
  Answer post_job(const Call& call);
  Answer post_cancellation(const Call& call);
  Answer get_health(const Call& call);
  Answer get_readiness(const Call& call);
  Answer get_metrics(const Call& call);

  Operations& operations_;
  Coordinator& coordinator_;
  boost::asio::any_io_executor daemon_;
  WorkQueue& background_;
  boost::asio::any_io_executor executor_;
  const Clock& clock_;
  HttpConfig config_;
  Sources sources_;
  Access access_;
  Documents documents_;
  Events events_;
  RateLimiter limiter_;
  Status storage_;
  std::optional<MonotonicTime> storage_checked_;
  std::atomic<bool> is_draining_ = false;
};

// The text of openapi.json.
std::string_view openapi_json();

}  // namespace trib::server::http
