// The API's documents, made at most twice a second however many ask, and off the daemon's executor where that takes
// long.
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

// Not thread-safe: all calls on the executor.
class Documents {
 public:
  Documents(Operations& operations, WorkQueue& background, boost::asio::any_io_executor executor, const Clock& clock,
            Reports reports);

  Text federation();
  Text sites();
  Text jobs();
  Result<Text> job(const std::string& id);
  // The newest report, which may be a few seconds old while the next one is made.
  boost::asio::awaitable<Result<Text>> privacy();
  boost::asio::awaitable<Result<Text>> privacy_history(std::string site, std::string data_set);

  // Somebody has just changed something, and expects to see it: nothing that was made before is shown again.
  void forget();

 private:
  struct Entry {
    Text text;
    MonotonicTime made{};
    std::uint64_t epoch = 0;
  };
  struct Slow {  // a document that is made in the background, by one at a time
    Entry newest;
    std::optional<Error> error;
    bool is_being_made = false;
    MonotonicTime asked{};
    std::vector<std::shared_ptr<Completion<bool>>> waiting;
  };
  template <typename Make>
  Text quick(Entry& entry, const Make& make);
  boost::asio::awaitable<Result<Text>> slow(std::shared_ptr<Slow> document, std::function<Result<std::string>()> make);
  boost::asio::awaitable<void> make(std::shared_ptr<Slow> document, std::function<Result<std::string>()> make);

  Operations& operations_;
  WorkQueue& background_;
  boost::asio::any_io_executor executor_;
  const Clock& clock_;
  Reports reports_;
  std::uint64_t epoch_ = 1;
  Entry federation_, sites_, jobs_;
  std::map<std::string, Entry> job_;
  std::shared_ptr<Slow> privacy_ = std::make_shared<Slow>();
  std::map<std::pair<std::string, std::string>, std::shared_ptr<Slow>> histories_;
};

}  // namespace trib::server::http
