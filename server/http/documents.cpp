#include "server/http/documents.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

namespace trib::server::http {
namespace {

namespace asio = boost::asio;

constexpr Milliseconds fresh_for{450};     // less than the interval at which Events looks
constexpr Milliseconds usable_for{5'000};  // while the next one is made
constexpr std::size_t most_kept = 256;     // of one kind

}  // namespace

Documents::Documents(Operations& operations, WorkQueue& background, asio::any_io_executor executor, const Clock& clock,
                     Reports reports)
    : operations_(operations),
      background_(background),
      executor_(std::move(executor)),
      clock_(clock),
      reports_(std::move(reports)) {}

void Documents::forget() {
  ++epoch_;
}

template <typename Make>
Text Documents::quick(Entry& entry, const Make& make) {
  const MonotonicTime now = clock_.now();
  if (!entry.text || entry.epoch != epoch_ || now - entry.made >= fresh_for)
    entry = {std::make_shared<const std::string>(make()), now, epoch_};
  return entry.text;
}

Text Documents::federation() {
  return quick(federation_, [this] { return operations_.status(); });
}

Text Documents::sites() {
  return quick(sites_, [this] { return operations_.sites(); });
}

Text Documents::jobs() {
  return quick(jobs_, [this] { return operations_.jobs(); });
}

Result<Text> Documents::job(const std::string& id) {
  const MonotonicTime now = clock_.now();
  if (job_.size() > most_kept)
    std::erase_if(job_, [&](const auto& entry) { return now - entry.second.made > fresh_for; });
  const auto found = job_.find(id);
  if (found != job_.end() && found->second.epoch == epoch_ && now - found->second.made < fresh_for)
    return found->second.text;
  TRIB_ASSIGN(std::string text, operations_.job(id));
  Entry& entry = job_[id];
  entry = {std::make_shared<const std::string>(std::move(text)), now, epoch_};
  return entry.text;
}

asio::awaitable<Result<Text>> Documents::privacy() {
  auto text = co_await slow(privacy_, reports_.privacy);
  co_return text;
}

asio::awaitable<Result<Text>> Documents::privacy_history(std::string site, std::string data_set) {
  const MonotonicTime now = clock_.now();
  if (histories_.size() > most_kept)
    std::erase_if(histories_, [&](const auto& entry) {
      return !entry.second->is_being_made && now - entry.second->asked > usable_for;
    });
  const auto key = std::make_pair(site, data_set);
  auto& kept = histories_[key];
  if (!kept) kept = std::make_shared<Slow>();
  const std::shared_ptr<Slow> document = kept;
  auto make = [history = reports_.privacy_history, site, data_set]() -> Result<std::string> {
    if (!history) return Error{Errc::unsupported, "this aggregator keeps no history of privacy"};
    return history(site, data_set);
  };
  auto text = co_await slow(document, std::move(make));
  if (!text) histories_.erase(key);  // no site or data set of that name, most likely: nothing to keep
  co_return text;
}

asio::awaitable<Result<Text>> Documents::slow(std::shared_ptr<Slow> document,
                                              std::function<Result<std::string>()> make_text) {
  document->asked = clock_.now();
  while (true) {
    const auto age = clock_.now() - document->newest.made;
    const bool is_current = document->newest.text && document->newest.epoch == epoch_;
    if (is_current && age < fresh_for) co_return document->newest.text;
    if (!document->is_being_made) {
      document->is_being_made = true;
      document->error.reset();
      asio::co_spawn(executor_, make(document, make_text), asio::detached);
    }
    if (is_current && age < usable_for) co_return document->newest.text;
    auto made = std::make_shared<Completion<bool>>(executor_);
    document->waiting.push_back(made);
    co_await made->wait();
    if (document->error) co_return *document->error;
    if (document->newest.epoch == epoch_) co_return document->newest.text;
  }
}

asio::awaitable<void> Documents::make(std::shared_ptr<Slow> document, std::function<Result<std::string>()> make_text) {
  const std::uint64_t epoch = epoch_;  // what changes from here on may be missing in it
  const auto guarded = [make_text = std::move(make_text)]() -> Result<std::string> {
    try {
      return make_text();
    } catch (const std::exception& error) {
      return Error{Errc::internal, error.what()};
    }
  };
  auto text = co_await in_background(background_, executor_, guarded);
  document->is_being_made = false;
  if (text) {
    document->newest = {std::make_shared<const std::string>(std::move(*text)), clock_.now(), epoch};
  } else {
    document->error = text.error();
    if (status_for(text.error().code) >= 500) spdlog::error("a document cannot be made: {}", text.error().message);
  }
  const auto waiting = std::move(document->waiting);
  document->waiting.clear();
  for (const auto& completion : waiting) completion->set(true);
}

}  // namespace trib::server::http
