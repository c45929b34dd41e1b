// Live news for pages that are open (Server-Sent Events): each is the same document as the GET of its kind.
//
// News is looked for twice a second while anybody listens. A listener has at most one piece of each kind (and job)
// waiting: a newer one takes the place of an older one that was not sent yet. So a slow reader misses old news, never
// the newest, and costs no more memory than the documents themselves, which all listeners share.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "server/http/documents.h"
#include "server/http/job_watch.h"

namespace trib::server::http {

// All calls on `executor`; the jobs are watched on `daemon`, another one.
class Events {
 public:
  // Everything outlives it, and the coroutines on both executors end before it does.
  Events(boost::asio::any_io_executor executor, Documents& documents, boost::asio::any_io_executor daemon,
         Coordinator& coordinator, const Clock& clock, std::size_t most_listeners);
  ~Events();
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  // A stream that begins with everything as it is now. It ends when `is_allowed` no longer holds (asked twice a
  // second), or by end_all(). Errc::unavailable: too many listen.
  Result<std::shared_ptr<TextStream>> listen(std::function<bool()> is_allowed);
  void end_all();
  std::size_t listeners() const { return listeners_.size(); }

 private:
  class Listener;
  struct News {  // by "federation", "sites", "jobs", "privacy", "job ID"
    std::string kind;
    Text text;
    Sha256 digest{};  // of what counts in it
  };

  boost::asio::awaitable<void> run();
  boost::asio::awaitable<void> look();
  void note(const std::string& key, const std::string& kind, Text text);
  boost::asio::awaitable<void> look_at_privacy();

  boost::asio::any_io_executor executor_;
  Documents& documents_;
  boost::asio::any_io_executor daemon_;
  std::shared_ptr<JobWatch> watch_;  // on the daemon's executor
  const Clock& clock_;
  std::size_t most_listeners_;
  std::list<std::shared_ptr<Listener>> listeners_;
  std::map<std::string, News> newest_;
  bool is_running_ = false;
  bool is_reading_privacy_ = false;
  bool is_privacy_due_ = true;
  MonotonicTime next_privacy_{};
  std::uint64_t last_id_ = 0;
};

}  // namespace trib::server::http
