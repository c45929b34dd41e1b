#include "server/http/documents.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "server/background.h"

namespace trib::server::http {
namespace {

namespace asio = boost::asio;

constexpr Milliseconds fresh_for{450};  // less than the interval at which Events looks
constexpr Milliseconds view_usable_for{1'000};
constexpr Milliseconds report_usable_for{5'000};
constexpr std::size_t most_kept = 256;

}  // namespace

Documents::Documents(Operations& operations, asio::any_io_executor daemon, WorkQueue& background,
                     asio::any_io_executor executor, const Clock& clock, Reports reports)
    : operations_(operations),
      daemon_(std::move(daemon)),
      background_(background),
      executor_(std::move(executor)),
      clock_(clock),
      reports_(std::move(reports)) {}

Documents::Make Documents::from_daemon(std::function<Result<std::string>()> view) const {
  return [daemon = daemon_, view = std::move(view)]() { return on_executor(daemon, view); };
}

Documents::Make Documents::from_background(std::function<Result<std::string>()> report) const {
  auto guarded = [report = std::move(report)]() -> Result<std::string> {
    try {
      if (!report) return Error{Errc::unsupported, "this aggregator keeps no such report"};
      return report();
    } catch (const std::exception& error) {
      return Error{Errc::internal, error.what()};
    }
  };
  return [&queue = background_, executor = executor_, guarded = std::move(guarded)]() {
    return in_background(queue, executor, guarded);
  };
}

Documents::Answer Documents::federation(Age age) {
  return get("federation", age == Age::recent ? view_usable_for : fresh_for,
             from_daemon([this]() -> Result<std::string> { return operations_.status(); }));
}

Documents::Answer Documents::sites(Age age) {
  return get("sites", age == Age::recent ? view_usable_for : fresh_for,
             from_daemon([this]() -> Result<std::string> { return operations_.sites(); }));
}

Documents::Answer Documents::jobs(Age age) {
  return get("jobs", age == Age::recent ? view_usable_for : fresh_for,
             from_daemon([this]() -> Result<std::string> { return operations_.jobs(); }));
}

Documents::Answer Documents::job(std::string id) {
  return get("job " + id, view_usable_for, from_daemon([this, id] { return operations_.job(id); }));
}

Documents::Answer Documents::privacy(Age age) {
  return get("privacy", age == Age::recent ? report_usable_for : fresh_for, from_background(reports_.privacy));
}

Documents::Answer Documents::privacy_history(std::string site, std::string data_set) {
  std::function<Result<std::string>()> report;
  if (reports_.privacy_history)
    report = [history = reports_.privacy_history, site, data_set] { return history(site, data_set); };
  // Never an older one: who asks has just seen that its figures have changed. No name has a line end: decode_path() has
  // seen to it.
  return get("privacy " + site + "\n" + data_set, fresh_for, from_background(std::move(report)));
}

Documents::Answer Documents::get(std::string key, Milliseconds usable_for, Make make) {
  sweep();
  auto& kept = documents_[key];
  if (!kept) kept = std::make_shared<Document>();
  const std::shared_ptr<Document> document = kept;
  document->asked = clock_.now();
  while (true) {
    const auto age = clock_.now() - document->made;
    const bool is_current = document->text && document->epoch == epoch_;
    if (is_current && age < fresh_for) co_return document->text;
    if (!document->is_being_made) {
      document->is_being_made = true;
      document->error.reset();
      asio::co_spawn(executor_, renew(document, make), asio::detached);
    }
    if (is_current && age < usable_for) co_return document->text;
    auto made = std::make_shared<Completion<bool>>(executor_);
    document->waiting.push_back(made);
    co_await made->wait();
    if (document->error) {
      const Error error = *document->error;
      if (!document->is_being_made) documents_.erase(key);  // most likely there is nothing of this name
      co_return error;
    }
    if (document->text && document->epoch == epoch_) co_return document->text;
  }
}

asio::awaitable<void> Documents::renew(std::shared_ptr<Document> document, Make make) {
  const std::uint64_t epoch = epoch_;  // what changes from here on may be missing in it
  auto text = co_await make();
  document->is_being_made = false;
  if (text) {
    document->text = std::make_shared<const std::string>(std::move(*text));
    document->made = clock_.now();
    document->epoch = epoch;
  } else {
    document->error = text.error();
    if (status_for(text.error().code) == 500) spdlog::error("a document cannot be made: {}", text.error().message);
  }
  const auto waiting = std::move(document->waiting);
  document->waiting.clear();
  for (const auto& completion : waiting) completion->set(true);
}

void Documents::sweep() {
  if (documents_.size() < most_kept) return;
  const MonotonicTime now = clock_.now();
  std::erase_if(documents_, [&](const auto& entry) {
    return !entry.second->is_being_made && entry.second->waiting.empty() && now - entry.second->asked > fresh_for;
  });
}

}  // namespace trib::server::http
