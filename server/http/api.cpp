#include "server/http/api.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/json.hpp>

#include "server/background.h"
#include "server/http/json_body.h"

namespace trib::server::http {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;

constexpr Milliseconds storage_check_interval{5'000};

// A statement's page is made of what a site has sent: it may look like something, and nothing else.
constexpr std::string_view page_policy =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox";

std::vector<std::string_view> split(std::string_view pattern) {
  std::vector<std::string_view> parts;
  pattern.remove_prefix(1);
  while (!pattern.empty()) {
    const std::size_t end = std::min(pattern.find('/'), pattern.size());
    parts.push_back(pattern.substr(0, end));
    pattern.remove_prefix(std::min(end + 1, pattern.size()));
  }
  return parts;
}

// The values of "{…}" in the pattern, if the path is one of it.
std::optional<std::vector<std::string>> match_path(std::string_view pattern, const std::vector<std::string>& path) {
  const auto parts = split(pattern);
  if (parts.size() != path.size()) return std::nullopt;
  std::vector<std::string> parameters;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].starts_with('{')) {
      if (path[i].empty()) return std::nullopt;
      parameters.push_back(path[i]);
    } else if (parts[i] != path[i]) {
      return std::nullopt;
    }
  }
  return parameters;
}

std::string session_json(const Identity& identity) {
  return json::serialize(
      json::object{{"role", identity.is_operator ? "operator" : "viewer"},
                   {"name", identity.name},
                   {"csrf", identity.session ? json::value(identity.csrf) : json::value(nullptr)},
                   {"expires", identity.expires ? json::value(to_iso8601(*identity.expires)) : json::value(nullptr)}});
}

Response document(Result<Text> text) {
  return text ? text_response(200, std::move(*text)) : error_response(text.error());
}

bool is_json(std::string_view content_type) {
  return content_type.substr(0, content_type.find(';')) == "application/json";
}

}  // namespace

Api::Api(Operations& operations, Coordinator& coordinator, AccessTokens& tokens, asio::any_io_executor daemon,
         WorkQueue& background, asio::any_io_executor executor, const Clock& clock, const HttpConfig& config,
         Sources sources)
    : operations_(operations),
      coordinator_(coordinator),
      daemon_(daemon),
      background_(background),
      executor_(executor),
      clock_(clock),
      config_(config),
      sources_(std::move(sources)),
      access_(tokens, clock, config.session_lifetime),
      documents_(operations, daemon, background, executor, clock, sources_.reports),
      events_(executor, documents_, daemon, coordinator, clock,
              static_cast<std::size_t>(std::max<std::int64_t>(1, config.connections / 2))),
      limiter_(config.requests_per_minute) {}

std::span<const Api::Endpoint> Api::endpoints() {
  static constexpr Endpoint table[] = {
      {{"GET", "/api/v1/federation", Audience::viewers}, &Api::get_federation},
      {{"GET", "/api/v1/sites", Audience::viewers}, &Api::get_sites},
      {{"GET", "/api/v1/sites/{site}/statement", Audience::viewers}, &Api::get_statement},
      {{"GET", "/api/v1/sites/{site}/statement.html", Audience::viewers}, &Api::get_statement_page},
      {{"POST", "/api/v1/sites/{name}/revoke", Audience::operators}, &Api::post_revocation},
      {{"GET", "/api/v1/jobs", Audience::viewers}, &Api::get_jobs},
      {{"POST", "/api/v1/jobs", Audience::operators}, &Api::post_job},
      {{"GET", "/api/v1/jobs/{id}", Audience::viewers}, &Api::get_job},
      {{"GET", "/api/v1/jobs/{id}/file", Audience::viewers}, &Api::get_job_file},
      {{"POST", "/api/v1/jobs/{id}/cancel", Audience::operators}, &Api::post_cancellation},
      {{"GET", "/api/v1/privacy", Audience::viewers}, &Api::get_privacy},
      {{"GET", "/api/v1/privacy/{site}/{data_set}", Audience::viewers}, &Api::get_privacy_history},
      {{"GET", "/api/v1/events", Audience::viewers}, &Api::get_events},
      {{"GET", "/api/v1/openapi.json", Audience::viewers}, &Api::get_openapi},
      {{"GET", "/api/v1/session", Audience::viewers}, &Api::get_session},
      {{"POST", "/api/v1/session", Audience::anyone}, &Api::post_session},
      {{"DELETE", "/api/v1/session", Audience::viewers}, &Api::delete_session},
      {{"POST", "/api/v1/invites", Audience::operators}, &Api::post_invite},
      {{"GET", "/healthz", Audience::anyone}, &Api::get_health},
      {{"GET", "/readyz", Audience::anyone}, &Api::get_readiness},
      {{"GET", "/metrics", Audience::viewers}, &Api::get_metrics},
  };
  return table;
}

std::vector<Route> Api::routes() {
  std::vector<Route> routes;
  for (const Endpoint& endpoint : endpoints()) routes.push_back(endpoint.route);
  return routes;
}

Api::Match Api::match(const Request& request) {
  Match match;
  for (const Endpoint& endpoint : endpoints()) {
    auto parameters = match_path(endpoint.route.pattern, request.segments);
    if (!parameters) continue;
    if (endpoint.route.method == request.method) {
      match.endpoint = &endpoint;
      match.parameters = std::move(*parameters);
      return match;
    }
    match.allowed += (match.allowed.empty() ? "" : ", ") + std::string(endpoint.route.method);
    if (endpoint.route.method == "GET") match.allowed += ", HEAD";
  }
  return match;
}

bool Api::is_for_anyone(const Route& route) const {
  return route.audience == Audience::anyone || (route.pattern == "/metrics" && config_.open_metrics);
}

// Who it is, and that they may: for what anyone may do it is nobody.
Result<std::optional<Identity>> Api::admit(const Request& request, const Route& route) {
  if (is_for_anyone(route)) return std::optional<Identity>();
  TRIB_ASSIGN(Identity identity, access_.authenticate(request));
  if (route.audience == Audience::operators && !identity.is_operator)
    return Error{Errc::permission_denied, "the token '" + identity.name +
                                              "' is a viewer's, and this needs an operator's: `trib token create "
                                              "NAME --role operator`"};
  if (route.method != "GET") TRIB_TRY(Access::check_change(request, identity));
  return std::optional(std::move(identity));
}

std::optional<Response> Api::refusal(const Request& request, const Match& match) {
  if (!limiter_.take(request.remote_address, clock_.now()))
    return error_response({Errc::limit_exceeded, "more requests from this address than http.requests_per_minute = " +
                                                     std::to_string(config_.requests_per_minute) + " allows"});
  if (match.endpoint == nullptr) {
    if (!match.allowed.empty()) {
      Response response = error_response(405, {Errc::unsupported, "this path knows only " + match.allowed});
      response.headers.emplace_back("Allow", match.allowed);
      return response;
    }
    if (request.method == "GET" && find_file(request) != nullptr && request.content_length == 0) return std::nullopt;
    return error_response({Errc::not_found, sources_.files.empty()
                                                ? "there is nothing here; the API is under /api/v1, and this build "
                                                  "has no dashboard"
                                                : "there is nothing here; the dashboard is at /, the API under "
                                                  "/api/v1"});
  }
  const Route& route = match.endpoint->route;
  const auto admitted = admit(request, route);
  if (!admitted) {
    if (admitted.error().code == Errc::permission_denied || !request.authorization.empty())
      spdlog::warn("{} {} from {} is refused: {}", route.method, route.pattern, request.remote_address,
                   admitted.error().message);
    return error_response(admitted.error());
  }
  if (route.method != "POST" && request.content_length > 0)
    return error_response({Errc::invalid_argument, "a " + std::string(route.method) + " has no body"});
  if (request.content_length > 0 && !is_json(request.content_type))
    return error_response({Errc::invalid_argument, "the body must be sent as Content-Type: application/json"});
  return std::nullopt;
}

std::optional<Response> Api::check_head(const Request& request) {
  const Match found = match(request);
  std::optional<Response> refused = refusal(request, found);
  if (refused) count(found.endpoint ? found.endpoint->route.pattern : "none", refused->status, 0.0);
  return refused;
}

asio::awaitable<Response> Api::answer(const Request& request) {
  const MonotonicTime started = clock_.now();
  const Match found = match(request);
  Response response;
  std::string_view pattern = "file";
  if (found.endpoint != nullptr) {
    pattern = found.endpoint->route.pattern;
    // Once more: a token may have been revoked while the body was read.
    auto identity = admit(request, found.endpoint->route);
    if (identity) {
      const Call call{request, found.parameters, std::move(*identity)};
      response = co_await (this->*found.endpoint->answer)(call);
    } else {
      response = error_response(identity.error());
    }
  } else if (const Asset* file = find_file(request)) {
    response = file_response(request, *file);
  }
  const double seconds = std::chrono::duration<double>(clock_.now() - started).count();
  spdlog::debug("{} {} from {}: {} in {:.1f} ms", request.method, pattern, request.remote_address, response.status,
                seconds * 1e3);
  count(pattern, response.status, seconds);
  co_return response;
}

// `route` is a literal.
void Api::count(std::string_view route, int status, double seconds) {
  if (!sources_.count_request) return;
  asio::post(daemon_, [this, route, status, seconds] { sources_.count_request(route, status, seconds); });
}

void Api::drain() {
  is_draining_ = true;
  asio::post(executor_, [this] { events_.end_all(); });
}

// --- Files ---

const Asset* Api::find_file(const Request& request) const {
  std::string path;
  for (const std::string& segment : request.segments) path += '/' + segment;
  if (path.empty()) path = "/";
  const auto found = std::ranges::find(sources_.files, path, &Asset::path);
  return found == sources_.files.end() ? nullptr : &*found;
}

Response Api::file_response(const Request& request, const Asset& file) const {
  Response response;
  response.content_type = file.content_type;
  response.body = file.bytes;
  response.may_be_cached = true;
  const std::string etag(file.etag);
  response.headers.emplace_back("ETag", etag);
  response.headers.emplace_back("Cache-Control", file.immutable ? "public, max-age=31536000, immutable" : "no-cache");
  if (request.if_none_match.find(etag) != std::string::npos) response.status = 304;
  return response;
}

// --- Views ---

Api::Answer Api::get_federation(const Call&) {
  auto text = co_await documents_.federation();
  co_return document(std::move(text));
}

Api::Answer Api::get_sites(const Call&) {
  auto text = co_await documents_.sites();
  co_return document(std::move(text));
}

Api::Answer Api::get_jobs(const Call&) {
  auto text = co_await documents_.jobs();
  co_return document(std::move(text));
}

Api::Answer Api::get_job(const Call& call) {
  auto text = co_await documents_.job(call.parameters.at(0));
  co_return document(std::move(text));
}

Api::Answer Api::get_job_file(const Call& call) {
  const auto read = [this, id = call.parameters.at(0)] { return coordinator_.job_file(id); };
  auto file = co_await on_executor(daemon_, read);
  if (!file) co_return error_response(file.error());
  co_return text_response(200, std::make_shared<const std::string>(std::move(*file)), "text/plain; charset=utf-8");
}

Api::Answer Api::get_privacy(const Call&) {
  auto text = co_await documents_.privacy();
  co_return document(std::move(text));
}

Api::Answer Api::get_privacy_history(const Call& call) {
  auto text = co_await documents_.privacy_history(call.parameters.at(0), call.parameters.at(1));
  co_return document(std::move(text));
}

asio::awaitable<Result<std::string>> Api::read_statement(Statement source, std::string site) {
  // What is kept is given at once; a site that is connected sends a fresh one for the next time.
  asio::post(daemon_, [this, site] { operations_.request_statement(site); });
  if (source) {
    const auto read = [&source, &site] { return source(site); };
    auto found = co_await in_background(background_, executor_, read);
    if (!found) co_return found.error();
    if (*found) co_return std::move(**found);
  }
  co_return Error{Errc::not_found,
                  "'" + site +
                      "' has sent no statement: its client sends one when it connects and is asked for one now, unless "
                      "its own configuration says share_statement = false; at the site, `trib privacy export` makes "
                      "one"};
}

Api::Answer Api::get_statement(const Call& call) {
  const std::string& site = call.parameters.at(0);
  auto statement = co_await read_statement(sources_.statement, site);
  if (!statement) co_return error_response(statement.error());
  Response response = json_response(200, std::move(*statement));
  // A site that has sent something has a name that check_member_name() has passed.
  response.headers.emplace_back("Content-Disposition", "attachment; filename=\"statement-" + site + ".json\"");
  co_return response;
}

Api::Answer Api::get_statement_page(const Call& call) {
  auto page = co_await read_statement(sources_.statement_page, call.parameters.at(0));
  if (!page) co_return error_response(page.error());
  Response response =
      text_response(200, std::make_shared<const std::string>(std::move(*page)), "text/html; charset=utf-8");
  response.content_security_policy = page_policy;
  co_return response;
}

Api::Answer Api::get_events(const Call& call) {
  if (is_draining_) co_return error_response({Errc::unavailable, "the aggregator is shutting down: come back later"});
  Response response;
  response.content_type = "text/event-stream; charset=utf-8";
  response.headers.emplace_back("X-Accel-Buffering", "no");
  if (call.request.is_head) co_return response;
  auto stream = events_.listen([this, identity = *call.identity] { return access_.is_live(identity); });
  if (!stream) co_return error_response(stream.error());
  response.stream = std::move(*stream);
  co_return response;
}

Api::Answer Api::get_openapi(const Call&) {
  Response response;
  response.body = openapi_json();
  co_return response;
}

// --- Sessions ---

Api::Answer Api::get_session(const Call& call) {
  co_return json_response(200, session_json(*call.identity));
}

Api::Answer Api::post_session(const Call& call) {
  auto body = JsonBody::parse(call.request.body);
  if (!body) co_return error_response(body.error());
  const std::string token = body->text("token");
  if (const Status read = body->finish(); !read) co_return error_response(read.error());
  auto login = access_.log_in(call.request, token);
  if (!login) {
    spdlog::warn("a sign-in from {} is refused: {}", call.request.remote_address, login.error().message);
    co_return error_response(login.error());
  }
  spdlog::info("{} signed in from {}", login->identity.in_log(), call.request.remote_address);
  Response response = json_response(200, session_json(login->identity));
  response.headers.emplace_back("Set-Cookie", login->set_cookie);
  co_return response;
}

Api::Answer Api::delete_session(const Call& call) {
  Response response;
  response.status = 204;
  response.headers.emplace_back("Set-Cookie", access_.log_out(call.request, *call.identity));
  co_return response;
}

// --- Changes ---

Response Api::changed(const Result<std::string>& document) {
  documents_.forget();
  return document ? json_response(200, *document) : error_response(document.error());
}

asio::awaitable<Response> Api::change(Operation operation) {
  const auto document = co_await on_executor(daemon_, operation);
  co_return changed(document);
}

Api::Answer Api::post_invite(const Call& call) {
  auto body = JsonBody::parse(call.request.body);
  if (!body) co_return error_response(body.error());
  const std::string site = body->text("site");
  const std::uint64_t valid_minutes = body->count("valid_minutes", 0);
  const bool is_operator = body->boolean("operator", false);
  if (const Status read = body->finish(); !read) co_return error_response(read.error());
  const Operation invite = [this, site, valid_minutes, is_operator, by = call.by()] {
    return operations_.invite(site, is_operator, valid_minutes, by);
  };
  auto response = co_await change(invite);
  co_return response;
}

Api::Answer Api::post_revocation(const Call& call) {
  auto body = JsonBody::parse(call.request.body);
  if (!body) co_return error_response(body.error());
  const std::string reason = body->text("reason", "");
  if (const Status read = body->finish(); !read) co_return error_response(read.error());
  const Operation revoke = [this, site = call.parameters.at(0), reason, by = call.by()] {
    return operations_.revoke(site, reason, by);
  };
  auto response = co_await change(revoke);
  co_return response;
}

Api::Answer Api::post_job(const Call& call) {
  auto body = JsonBody::parse(call.request.body);
  if (!body) co_return error_response(body.error());
  const std::string file = body->text("file");
  const std::string name = body->text("name", "job.toml");
  if (const Status read = body->finish(); !read) co_return error_response(read.error());
  const auto submit = [this, file, name, by = call.by()] { return operations_.submit(file, name, by); };
  const auto submitted = co_await await_on_executor(daemon_, submit);
  co_return changed(submitted);
}

Api::Answer Api::post_cancellation(const Call& call) {
  auto body = JsonBody::parse(call.request.body);
  if (!body) co_return error_response(body.error());
  const std::string reason = body->text("reason", "");
  if (const Status read = body->finish(); !read) co_return error_response(read.error());
  const Operation cancel = [this, job = call.parameters.at(0), reason, by = call.by()] {
    return operations_.cancel(job, reason, by);
  };
  auto response = co_await change(cancel);
  co_return response;
}

// --- For machines that watch this one ---

Api::Answer Api::get_health(const Call&) {
  co_return json_response(200, R"({"status":"alive"})");
}

Api::Answer Api::get_readiness(const Call&) {
  if (is_draining_) co_return error_response({Errc::unavailable, "the aggregator is shutting down"});
  const bool is_due = !storage_checked_ || clock_.now() - *storage_checked_ >= storage_check_interval;
  if (is_due && sources_.check_storage) {
    storage_checked_ = clock_.now();
    storage_ = co_await in_background(background_, executor_, sources_.check_storage);
  }
  if (!storage_)
    co_return error_response(503, storage_.error().with_context("the aggregator cannot write what it has to keep"));
  co_return json_response(200, R"({"status":"ready"})");
}

Api::Answer Api::get_metrics(const Call&) {
  std::string text;
  if (sources_.metrics) text = co_await on_executor(daemon_, sources_.metrics);
  co_return text_response(200, std::make_shared<const std::string>(std::move(text)),
                          "text/plain; version=0.0.4; charset=utf-8");
}

}  // namespace trib::server::http
