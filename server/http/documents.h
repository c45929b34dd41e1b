// The API's documents, made at most twice a second however many ask, and never on the thread that answers: most by the
// daemon's executor, which may be writing to disk for a while, those that read much of the store in the background.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "server/completion.h"
#include "server/http/message.h"
#include "server/operations.h"

namespace trib::server::http {

// Where long documents come from; each is called on a background thread.
struct Reports {
  std::function<Result<std::string>()> privacy;
  std::function<Result<std::string>(const std::string& site, const std::string& data_set)> privacy_history;
};

// Not thread-safe: all calls on `executor`. `operations` belong to `daemon`, another executor.
class Documents {
 public:
  Documents(Operations& operations, boost::asio::any_io_executor daemon, WorkQueue& background,
            boost::asio::any_io_executor executor, const Clock& clock, Reports reports);

  using Answer = boost::asio::awaitable<Result<Text>>;
  // `recent`: one that is a second old, or a report of a few seconds, will do, and the next one is made meanwhile.
  // `newest`: waits for what is not older than half a second.
  enum class Age { recent, newest };
  Answer federation(Age age = Age::recent);
  Answer sites(Age age = Age::recent);
  Answer jobs(Age age = Age::recent);
  Answer job(std::string id);
  Answer privacy(Age age = Age::recent);
  Answer privacy_history(std::string site, std::string data_set);

  // Somebody has just changed something, and expects to see it: nothing that was made before is shown again.
  void forget() { ++epoch_; }

 private:
  using Make = std::function<boost::asio::awaitable<Result<std::string>>()>;
  struct Document {
    Text text;
    MonotonicTime made{}, asked{};
    std::uint64_t epoch = 0;
    std::optional<Error> error;  // of the last try
    bool is_being_made = false;
    std::vector<std::shared_ptr<Completion<bool>>> waiting;
  };
  Make from_daemon(std::function<Result<std::string>()> view) const;
  Make from_background(std::function<Result<std::string>()> report) const;
  Answer get(std::string key, Milliseconds usable_for, Make make);
  boost::asio::awaitable<void> renew(std::shared_ptr<Document> document, Make make);
  void sweep();

  Operations& operations_;
  boost::asio::any_io_executor daemon_;
  WorkQueue& background_;
  boost::asio::any_io_executor executor_;
  const Clock& clock_;
  Reports reports_;
  std::uint64_t epoch_ = 1;
  std::map<std::string, std::shared_ptr<Document>> documents_;
};

}  // namespace trib::server::http
