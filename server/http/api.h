// The HTTP API: which requests there are, who may make them, and what answers them. openapi.json says the same to
// programs; a test holds the two against each other.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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

// A file of the dashboard, in this program's memory.
struct StaticFile {
  std::string_view path;  // "index.html", "assets/index-5f3a.js"
  std::string_view content_type, etag, bytes;
  bool immutable = false;  // its name changes with its content
};

// What other parts of the aggregator know. Any of them may be empty.
struct Sources {
  Reports reports;
  // The newest signed statement of a site, and the same as a page; nothing if the site has sent none.
  std::function<Result<std::optional<std::string>>(const std::string&site)> statement, statement_page;
  std::function<std::string()> metrics;  // Prometheus text
  std::function<void(std::string_view route, int status, double seconds)> count_request;
  std::function<Status()> check_storage;  // called in the background
  std::vector<StaticFile> files;
};

class Api final : public Handler {
 public:
  // Everything outlives it.
  Api(Operations& operations, Coordinator& coordinator, AccessTokens& tokens, WorkQueue& background,
      boost::asio::any_io_executor executor, const Clock& clock, const HttpConfig& config, Sources sources);

  std::optional<Response> check_head(const Request& request) override;
  boost::asio::awaitable<Response> answer(const Request& request) override;
  // The aggregator is going down: streams end, and no new one begins.
  void drain() { events_.end_all(); }

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
  const StaticFile* find_file(const Request& request) const;
  Response file_response(const Request& request, const StaticFile& file) const;
  Response changed(Result<std::string> document);

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
};

// The text of openapi.json.
std::string_view openapi_json();

}  // namespace trib::server::http
