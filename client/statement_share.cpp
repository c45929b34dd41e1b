#include "client/statement_share.h"

#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>

#include "client/site_jobs.h"
#include "privacy/statement.h"

namespace trib::client {

StatementShare::StatementShare(boost::asio::any_io_executor executor, const Site& site, Milliseconds interval)
    : executor_(std::move(executor)), site_(site), interval_(interval), timer_(executor_) {}

StatementShare::~StatementShare() {
  alive_.reset();
}

void StatementShare::connected(AggregatorLink& link) {
  link_ = &link;
  send_now();
}

void StatementShare::disconnected() {
  link_ = nullptr;
  timer_.cancel();
}

void StatementShare::ledger_changed() {
  if (link_ == nullptr || !shares() || site_.ledger->head().count == sent_count_) return;
  const auto since = sent_ ? site_.clock->now() - *sent_ : std::chrono::nanoseconds::max();
  if (since >= interval_) return send_now();
  if (timer_runs_) return;
  timer_runs_ = true;
  timer_.expires_after(interval_ - since);
  timer_.async_wait([this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
    if (alive.expired()) return;
    timer_runs_ = false;
    if (!error && link_ != nullptr && site_.ledger->head().count != sent_count_) send_now();
  });
}

void StatementShare::job_ended() {
  if (link_ != nullptr && shares() && site_.ledger->head().count != sent_count_) send_now();
}

void StatementShare::requested() {
  if (!shares()) spdlog::info("the aggregator asks for a privacy statement; share_statement = false withholds it");
  send_now();
}

void StatementShare::send_now() {
  if (link_ == nullptr || !shares()) return;
  auto snapshot = std::make_shared<privacy::Ledger::Snapshot>(site_.ledger->snapshot());
  sent_ = site_.clock->now();
  sent_count_ = snapshot->file.head.count;
  const std::string time = to_iso8601(site_.clock->wall_now());
  maker_.run([this, snapshot, time, link = link_, signer = site_.signer, alive = std::weak_ptr(alive_)] {
    const auto make = [&]() -> Result<std::string> {
      TRIB_ASSIGN(const auto figures,
                  privacy::figures_of(std::move(snapshot->file), snapshot->accounts, "the site's ledger"));
      return privacy::make_statement(figures, time, *signer);
    };
    auto text = std::make_shared<Result<std::string>>(make());
    boost::asio::post(executor_, [this, text, link, alive] {
      if (!alive.expired()) made(*text, link);
    });
  });
}

void StatementShare::made(const Result<std::string>& text, AggregatorLink* link) {
  if (!text) {
    spdlog::warn("no privacy statement can be made: {}", text.error().message);
    return;
  }
  if (link_ == nullptr || link_ != link) return;  // the next connection gets one of its own
  proto::ClientMessage message;
  message.mutable_statement()->set_text(*text);
  link_->send(std::move(message));
}

}  // namespace trib::client
