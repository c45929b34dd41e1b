// A site in a directory of its own, with a task that does as it is told.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "client/job_runner.h"
#include "client/outbox.h"
#include "common/clock.h"
#include "privacy/ledger.h"
#include "tasks/task.h"
#include "tests/common/temporary_directory.h"

namespace trib::client {

// What the fake task is told, and what it saw.
struct FakeBehaviour {
  std::optional<Error> make_error;
  std::optional<Error> train_error;
  bool send_nan = false;
  bool is_private = true;
  double noise_multiplier = 2.0;
  double target_delta = 1e-5;
  std::int64_t steps = 4;
  double evaluation_noise_multiplier = 20.0;
  std::function<void(std::int64_t step)> at_step;
  std::function<void()> at_making, at_evaluation;

  int made = 0;
  int trained = 0;
  int evaluated = 0;
  float made_of = 0.0F;  // the broadcast's value
  std::int64_t last_counted = -1;
  TensorMap constants;
  tasks::SiteContext context;
};

inline TensorMap tensors_of(float value) {
  TensorMap tensors;
  tensors["weight"] = HostTensor::from_f32({2, 256}, std::vector<float>(512, value));
  return tensors;
}

// Contributes weight 1000 times (broadcast + round).
class FakeTask final : public tasks::ClientTask {
 public:
  FakeTask(std::shared_ptr<FakeBehaviour> behaviour, std::string data_set, std::int64_t records)
      : behaviour_(std::move(behaviour)), data_set_(std::move(data_set)), records_(records) {}

  Result<privacy::Charge> charge(const tasks::RoundPlan& plan) const override {
    privacy::Charge charge;
    charge.job = plan.job_id;
    charge.round = plan.round;
    charge.data_set = data_set_;
    charge.declared_records = records_;
    charge.target_delta = behaviour_->target_delta;
    charge.mechanism.kind =
        behaviour_->is_private ? privacy::MechanismKind::poisson_subsampled_gaussian : privacy::MechanismKind::none;
    charge.mechanism.sample_rate = 0.01;
    charge.mechanism.noise_multiplier = behaviour_->is_private ? behaviour_->noise_multiplier : 0.0;
    charge.mechanism.clip_norm = behaviour_->is_private ? 1.0 : 0.0;
    charge.mechanism.steps = behaviour_->steps;
    return charge;
  }
  Status set_constants(const TensorMap& constants) override {
    behaviour_->constants = constants;
    return {};
  }
  Result<privacy::Contribution> train(const TensorMap& broadcast, const tasks::RoundPlan& plan,
                                      privacy::PrivacySession& session, tasks::Progress& progress) override {
    ++behaviour_->trained;
    behaviour_->last_counted = plan.last_counted;
    behaviour_->made_of = broadcast.at("weight").as<float>()[0];
    for (std::int64_t step = 1; step <= behaviour_->steps; ++step) {
      if (behaviour_->at_step) behaviour_->at_step(step);
      if (progress.cancelled()) return Error{Errc::cancelled, "stopped"};
      progress.step(step, behaviour_->steps, 0.125);
    }
    if (behaviour_->train_error) return *behaviour_->train_error;
    return session.contribute(tensors_of(behaviour_->made_of + static_cast<float>(plan.round)), 1000.0);
  }
  Result<privacy::Charge> evaluation_charge(const tasks::RoundPlan& plan) const override {
    TRIB_ASSIGN(privacy::Charge charge, this->charge(plan));
    charge.job += ":evaluation";
    charge.mechanism.sample_rate = 1.0;
    charge.mechanism.steps = 1;
    charge.mechanism.noise_multiplier = behaviour_->evaluation_noise_multiplier;
    return charge;
  }
  Result<privacy::Contribution> evaluate(const TensorMap&, privacy::PrivacySession& session,
                                         tasks::Progress&) override {
    ++behaviour_->evaluated;
    if (behaviour_->at_evaluation) behaviour_->at_evaluation();
    TensorMap counts;
    counts[tasks::evaluation_tensor] = HostTensor::from_f64({3}, std::vector<double>{50.0, 40.0, 5.0});
    return session.contribute(std::move(counts), 1.0);
  }

 private:
  std::shared_ptr<FakeBehaviour> behaviour_;
  std::string data_set_;
  std::int64_t records_;
};

class StoppableProgress : public tasks::QuietProgress {
 public:
  bool cancelled() const override { return is_cancelled; }
  bool is_cancelled = false;
};

inline constexpr std::int64_t declared_records = 5000;
inline constexpr std::uint64_t outbox_limit = 1 << 20;

class SiteFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(directory_ / "data.tsv") << "text\tlabel\nhello\tgreeting\n";
    definition_.name = "fake";
    definition_.make_client = [this](const tasks::JobSpec& spec,
                                     const tasks::SiteContext& context) -> Result<std::unique_ptr<tasks::ClientTask>> {
      ++behaviour_->made;
      behaviour_->context = context;
      behaviour_->constants = {};
      if (behaviour_->at_making) behaviour_->at_making();
      if (behaviour_->make_error) return *behaviour_->make_error;
      return std::unique_ptr<tasks::ClientTask>(
          std::make_unique<FakeTask>(behaviour_, spec.data_set, context.declared_records));
    };
    DataSetPolicy policy;
    policy.file = directory_ / "data.tsv";
    policy.declared_records = declared_records;
    policy.budget = privacy::Budget{.data_set = "default", .epsilon = 8.0, .delta = 1e-5};
    site_.name = "hospital";
    site_.data_sets["default"] = policy;
    site_.clock = &clock_;
    site_.find_task = [this](std::string_view name) -> Result<const tasks::TaskDefinition*> {
      if (name == "unknown") return Error{Errc::not_found, "there is no task 'unknown'; there are: fake"};
      return &definition_;
    };
    open_stores();
  }

  // As after a start of the process: what is not on disk is forgotten.
  void open_stores() {
    ledger_.reset();
    outbox_.reset();
    std::vector<privacy::Budget> budgets;
    for (const auto& [name, policy] : site_.data_sets) {
      if (policy.budget) budgets.push_back(*policy.budget);
    }
    ledger_ =
        std::move(privacy::Ledger::open(directory_ / "ledger.jsonl", {"hospital", signer_}, budgets, clock_)).value();
    outbox_ = std::move(Outbox::open(directory_ / "outbox", outbox_limit)).value();
    site_.ledger = ledger_.get();
    site_.outbox = outbox_.get();
  }
  void close_stores() {
    ledger_.reset();
    outbox_.reset();
  }

  static OfferedJob offer(const std::string& id = "job-1") {
    OfferedJob job;
    job.id = id;
    job.spec.name = "job";
    job.spec.task = "fake";
    job.spec.rounds = 1000;
    job.broadcast_schema = tensors_of(0).schema();
    job.contribution_schema = tensors_of(0).schema();
    return job;
  }
  std::unique_ptr<JobRunner> runner(OfferedJob job = offer()) {
    auto acceptance = JobRunner::accept(std::move(job), site_);
    EXPECT_TRUE(acceptance.runner) << acceptance.refusal.detail;
    return std::move(acceptance.runner);
  }
  Refusal refusal_of(OfferedJob job = offer()) {
    auto acceptance = JobRunner::accept(std::move(job), site_);
    EXPECT_FALSE(acceptance.runner);
    return acceptance.refusal;
  }
  std::int64_t charges() const { return static_cast<std::int64_t>(ledger_->entries().size()); }

  // Runs `work` in a child process in which `failpoint` is set; returns how waitpid saw it end. Stores are closed in
  // the parent meanwhile and opened again afterwards, as a restart does.
  int in_killed_child(const std::string& failpoint, const std::function<void()>& work) {
    close_stores();
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("TRIBUTARY_FAILPOINT", failpoint.c_str(), 1);
      open_stores();
      work();
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    open_stores();
    return status;
  }

  test::TemporaryDirectory directory_;
  ManualClock clock_;
  std::shared_ptr<const Signer> signer_ = throwaway_signer();
  std::shared_ptr<FakeBehaviour> behaviour_ = std::make_shared<FakeBehaviour>();
  tasks::TaskDefinition definition_;
  Site site_;
  std::unique_ptr<privacy::Ledger> ledger_;
  std::unique_ptr<Outbox> outbox_;
  StoppableProgress progress_;
};

}  // namespace trib::client
