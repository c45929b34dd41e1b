// The states of a job, in the order in which it goes through them; server/coordinator.h says what each is for.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "server/rounds/job.h"
#include "server/rounds/state.h"

namespace trib::server {

// → Recruiting, or wherever the store says the job was; failed.
class Preparing final : public RoundState {
 public:
  using RoundState::RoundState;
  std::string_view name() const override { return "preparing"; }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override;
  std::optional<WaitReport> waiting() const override;

 private:
  struct Prepared;
  void work();
  void finish(const Result<std::shared_ptr<Prepared>>& prepared);
  void take_up();
  WallTime since_{};
  std::optional<Deadline> give_up_;  // of a job that has committed rounds
  std::optional<Deadline> retry_;
  std::string problem_;
};

// → Selecting, failed.
class Recruiting final : public RoundState {
 public:
  using RoundState::RoundState;
  std::string_view name() const override { return "recruiting"; }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override;
  void sites_changed() override;
  std::optional<WaitReport> waiting() const override;

 private:
  std::int64_t wanted() const;
  WallTime since_{};
  std::optional<Deadline> deadline_;
};

// Chooses the sites of the next round, or further ones for the open round. → Collecting, failed.
class Selecting final : public RoundState {
 public:
  explicit Selecting(Job& job, std::int64_t attempt = 1) : RoundState(job), attempt_(attempt) {}
  std::string_view name() const override { return "selecting"; }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override;
  void sites_changed() override { try_to_select(); }
  bool takes_contributions() const override { return job_.open_round().has_value(); }
  std::optional<WaitReport> waiting() const override { return wait_; }

 private:
  void try_to_select();
  void wait_for(std::string reason, std::vector<std::string> sites);
  void open_round(const std::vector<std::string>& chosen);
  std::int64_t attempt_;
  WallTime since_{};
  Deadline deadline_{};
  std::optional<MonotonicTime> grace_end_;    // of a site that may come back in a moment
  std::optional<MonotonicTime> retry_store_;  // the storage refused the round
  std::optional<WaitReport> wait_;
};

// → Aggregating, Selecting (a retry), failed.
class Collecting final : public RoundState {
 public:
  using RoundState::RoundState;
  std::string_view name() const override { return "collecting"; }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override { return deadline_.at; }
  void sites_changed() override;
  bool takes_contributions() const override { return true; }
  std::optional<WaitReport> waiting() const override;

 private:
  WallTime since_{};
  Deadline deadline_{};
};

// → Evaluating, Selecting, finished, failed.
class Aggregating final : public RoundState {
 public:
  using RoundState::RoundState;
  std::string_view name() const override { return "aggregating"; }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override;
  std::optional<WaitReport> waiting() const override;

 private:
  struct Next;
  void compute();
  void write();
  void commit();
  void storage_failed(const Error& error);
  WallTime since_{};
  std::shared_ptr<Next> next_;
  std::optional<Deadline> give_up_, retry_;
  std::string problem_;
};

// → Selecting, finished, failed.
class Evaluating final : public RoundState {
 public:
  using RoundState::RoundState;
  ~Evaluating() override { cancelled_->store(true); }
  std::string_view name() const override { return "evaluating"; }
  void enter() override;
  std::optional<WaitReport> waiting() const override;

 private:
  WallTime since_{};
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

// Finished, failed or cancelled; there is no way out. Stays until the store knows.
class Ended final : public RoundState {
 public:
  Ended(Job& job, JobState outcome, std::string reason)
      : RoundState(job), outcome_(outcome), reason_(std::move(reason)) {}
  std::string_view name() const override { return to_string(outcome_); }
  void enter() override;
  void tick() override;
  std::optional<MonotonicTime> next_deadline() const override;

 private:
  void save();
  JobState outcome_;
  std::string reason_;
  std::optional<MonotonicTime> retry_;
};

}  // namespace trib::server
