#include "server/http/events.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <vector>

#include "server/background.h"

namespace trib::server::http {
namespace {

namespace asio = boost::asio;

constexpr Milliseconds look_interval{500};
constexpr Milliseconds keep_alive_interval{15'000};
constexpr Milliseconds privacy_interval{10'000};  // also where no job says that something has changed
// Of the time of a thread, what reading the store for the report may take while a job trains.
constexpr int privacy_share = 10;

// What is always different in a document, and no news: how late it is.
std::string without_clocks(std::string_view text) {
  static constexpr std::string_view clocks[] = {"\"time\":", "\"uptime_seconds\":", "\"seconds\":"};
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    std::size_t at = text.npos;
    std::string_view key;
    for (const std::string_view clock : clocks)
      if (const std::size_t found = text.find(clock); found < at) at = found, key = clock;
    if (at == text.npos) break;
    result += text.substr(0, at + key.size());
    text.remove_prefix(at + key.size());
    text.remove_prefix(std::min(text.find_first_of(",}"), text.size()));  // times and numbers have neither
  }
  result += text;
  return result;
}

}  // namespace

class Events::Listener final : public TextStream {
 public:
  Listener(asio::any_io_executor executor, std::function<bool()> is_allowed)
      : timer_(std::move(executor)), is_allowed_(std::move(is_allowed)) {}

  bool is_allowed() const { return !ended_ && is_allowed_(); }

  void add(const std::string& key, const std::string& kind, Text text, std::uint64_t id) {
    auto& waiting = waiting_[key];
    if (!waiting.text) order_.push_back(key);
    waiting = {kind, std::move(text), id};
    timer_.cancel();
  }
  void end() {
    ended_ = true;
    timer_.cancel();
  }
  void close() override { end(); }

  asio::awaitable<std::optional<std::string>> next() override {
    if (!greeted_) {
      greeted_ = true;
      co_return std::string("retry: 2000\n\n");
    }
    if (order_.empty() && !ended_) {
      timer_.expires_after(keep_alive_interval);
      boost::system::error_code ignored;
      co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    if (ended_) co_return std::nullopt;
    if (order_.empty()) co_return std::string(": keep-alive\n\n");
    const auto found = waiting_.find(order_.front());
    const News news = std::move(found->second);
    waiting_.erase(found);
    order_.pop_front();
    // A document is one line: JSON as it is serialized here has no line ends.
    co_return "id: " + std::to_string(news.id) + "\nevent: " + news.kind + "\ndata: " + *news.text + "\n\n";
  }

 private:
  struct News {
    std::string kind;
    Text text;
    std::uint64_t id = 0;
  };
  asio::steady_timer timer_;
  std::function<bool()> is_allowed_;
  std::map<std::string, News> waiting_;
  std::deque<std::string> order_;  // of the keys that wait
  bool greeted_ = false, ended_ = false;
};

Events::Events(asio::any_io_executor executor, Documents& documents, asio::any_io_executor daemon,
               Coordinator& coordinator, const Clock& clock, std::size_t most_listeners)
    : executor_(std::move(executor)),
      documents_(documents),
      daemon_(std::move(daemon)),
      watch_(std::make_shared<JobWatch>(coordinator)),
      clock_(clock),
      most_listeners_(most_listeners) {}

// Neither executor runs any more.
Events::~Events() {
  watch_->stop();
}

Result<std::shared_ptr<TextStream>> Events::listen(std::function<bool()> is_allowed) {
  if (listeners_.size() >= most_listeners_)
    return Error{Errc::unavailable, "too many listen to the events already: half of http.connections, which is " +
                                        std::to_string(most_listeners_)};
  const auto listener = std::make_shared<Listener>(executor_, std::move(is_allowed));
  for (const auto& [key, news] : newest_) listener->add(key, news.kind, news.text, ++last_id_);
  listeners_.push_back(listener);
  if (!is_running_) {
    is_running_ = true;
    asio::co_spawn(executor_, run(), asio::detached);
  }
  return std::shared_ptr<TextStream>(listener);
}

void Events::end_all() {
  for (const auto& listener : listeners_) listener->end();
  listeners_.clear();
}

asio::awaitable<void> Events::run() {
  asio::steady_timer timer(executor_);
  while (true) {
    for (const auto& listener : listeners_)
      if (!listener->is_allowed()) listener->end();
    std::erase_if(listeners_, [](const auto& listener) { return !listener->is_allowed(); });
    if (listeners_.empty()) break;
    timer.expires_after(look_interval);
    co_await look();
    boost::system::error_code ignored;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  is_running_ = false;
  newest_.clear();
  is_privacy_due_ = true;
  const auto stop = [watch = watch_] { watch->stop(); };
  asio::post(daemon_, stop);
}

asio::awaitable<void> Events::look() {
  const auto collect = [watch = watch_] { return watch->collect(); };
  const JobWatch::News news = co_await on_executor(daemon_, collect);
  const auto federation = co_await documents_.federation(Documents::Age::newest);
  const auto sites = co_await documents_.sites(Documents::Age::newest);
  const auto jobs = co_await documents_.jobs(Documents::Age::newest);
  if (federation) note("federation", "federation", *federation);
  if (sites) note("sites", "sites", *sites);
  if (jobs) note("jobs", "jobs", *jobs);
  for (const auto& [job, text] : news.changed) {
    note("job " + job, "job", text);
    if (news.ended.contains(job)) newest_.erase("job " + job);  // told once, and not kept
  }
  const MonotonicTime now = clock_.now();
  const bool is_late = now - next_privacy_ > privacy_interval;
  if (!is_reading_privacy_ && (is_privacy_due_ || is_late) && now >= next_privacy_) {
    is_reading_privacy_ = true;
    is_privacy_due_ = false;
    asio::co_spawn(executor_, look_at_privacy(), asio::detached);
  }
}

asio::awaitable<void> Events::look_at_privacy() {
  const MonotonicTime started = clock_.now();
  const auto text = co_await documents_.privacy(Documents::Age::newest);
  is_reading_privacy_ = false;
  const MonotonicTime now = clock_.now();
  next_privacy_ = now + std::max<std::chrono::nanoseconds>(look_interval, privacy_share * (now - started));
  if (text) note("privacy", "privacy", *text);
}

// Tells every listener, if there is something in it that was not in the one before.
void Events::note(const std::string& key, const std::string& kind, Text text) {
  News& known = newest_[key];
  if (known.text == text) return;
  const Sha256 digest = sha256(without_clocks(*text));
  const bool is_news = !known.text || known.digest != digest;
  known = {kind, std::move(text), digest};
  if (!is_news) return;
  if (kind != "federation" && kind != "privacy") is_privacy_due_ = true;
  for (const auto& listener : listeners_) listener->add(key, kind, known.text, ++last_id_);
}

}  // namespace trib::server::http
