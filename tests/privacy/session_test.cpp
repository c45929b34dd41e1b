// What a session does, and what it refuses.
#include "privacy/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <optional>

#include "kernels/grid.h"
#include "privacy/accountant.h"
#include "tests/kernels/forwarding_device.h"
#include "vector_records.h"

namespace trib::privacy {
namespace {

using testing::HasSubstr;

// Private in name: lets the exact answer be seen.
Mechanism quiet(double sample_rate, double clip_norm, Clipping clipping = Clipping::flat) {
  Mechanism mechanism = gaussian(sample_rate, 1e-9, clip_norm, 1);
  mechanism.noise = NoiseKind::float_gaussian;
  mechanism.clipping = clipping;
  return mechanism;
}

std::vector<VectorRecord> equal_records(std::size_t count, std::vector<float> gradient) {
  return std::vector<VectorRecord>(count, VectorRecord{std::move(gradient)});
}

// --- Opening the door ---

class SessionTest : public testing::Test {
 protected:
  Result<PrivacySession> open(const Charge& charge, bool allow_non_private = false) {
    return PrivacySession::open(*ledger_, charge, allow_non_private, RandomKey::from_seed(1), clock_);
  }
  ManualClock clock_;
  std::unique_ptr<Ledger> ledger_ = Ledger::in_memory(budget_of(8.0), clock_).value();
};

TEST_F(SessionTest, OpeningChargesTheWholeRoundBeforeAnythingIsRead) {
  const PrivacySession session = open(charge_of("j", 1)).value();
  EXPECT_EQ(session.steps_left(), 10);
  EXPECT_TRUE(session.is_private());
  EXPECT_EQ(session.charge().job, "j");
  EXPECT_DOUBLE_EQ(ledger_->epsilon_spent("messages", 1e-5), RdpCurve().add(charge_of("j", 1).mechanism).epsilon(1e-5));
}

TEST_F(SessionTest, OverBudgetThereIsNoSessionAndNoCharge) {
  ledger_ = Ledger::in_memory(budget_of(0.1), clock_).value();
  EXPECT_EQ(open(charge_of("j", 1)).error().code, Errc::over_budget);
  EXPECT_TRUE(ledger_->entries().empty());
}

TEST_F(SessionTest, ARoundIsOpenedOnce) {
  EXPECT_TRUE(open(charge_of("j", 1)).ok());
  EXPECT_EQ(open(charge_of("j", 1)).error().code, Errc::already_exists);
}

TEST_F(SessionTest, WithoutPrivacyOnlyWhereTheSiteAllowsIt) {
  const auto refused = open(non_private_charge("j", 1));
  EXPECT_EQ(refused.error().code, Errc::permission_denied);
  EXPECT_TRUE(ledger_->entries().empty());
  const PrivacySession session = open(non_private_charge("j", 1), true).value();
  EXPECT_FALSE(session.is_private());
  EXPECT_TRUE(std::isinf(ledger_->epsilon_spent("messages", 1e-5)));
}

TEST_F(SessionTest, TakesNoMoreStepsThanWereCharged) {
  Charge charge = charge_of("j", 1);
  charge.mechanism.steps = 2;
  PrivacySession session = open(charge).value();
  const RecordStore<VectorRecord> records(equal_records(3, {1.0f}));
  EXPECT_EQ(step(session, records, {}).first.step, 1);
  EXPECT_EQ(step(session, records, {}).first.step, 2);
  EXPECT_EQ(session.steps_left(), 0);
  const auto stream = kernels::cpu_device().make_stream();
  bool updated = false;
  const VectorModel model;
  const auto refused =
      session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), model.functions(*stream),
                                        [&](const std::vector<kernels::Tensor>&) { updated = true; });
  EXPECT_EQ(refused.error().code, Errc::limit_exceeded);
  EXPECT_THAT(refused.error().message, HasSubstr("2 were charged"));
  EXPECT_FALSE(updated);
}

TEST_F(SessionTest, AStepThatFailsInTheModelIsSpent) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const RecordStore<VectorRecord> records(equal_records(500, {1.0f}));
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  GradientFunctions<VectorRecord> functions = model.functions(*stream);
  functions.per_sample = [](auto, auto&) { throw std::runtime_error("out of memory"); };
  EXPECT_THROW((void)session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions,
                                                       [](const auto&) {}),
               std::runtime_error);
  EXPECT_EQ(session.steps_left(), 9);
}

TEST_F(SessionTest, GradientsThatAreNotTheParametersAreABug) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const RecordStore<VectorRecord> records(equal_records(500, {1.0f, 1.0f}));
  const auto stream = kernels::cpu_device().make_stream();
  EXPECT_THROW((void)session.dp_sgd_step<VectorRecord>(*stream, records, VectorModel{1}.parameters(*stream),
                                                       VectorModel{2}.functions(*stream), [](const auto&) {}),
               std::invalid_argument);
}

// --- What goes wrong in a step ---

kernels::Tensor losses_of(kernels::Stream& stream, const std::vector<float>& losses) {
  return kernels::Tensor::from_host(stream, std::span<const float>(losses));
}

// Steps that are submitted one behind the other, some with a loss that is not a number.
class SubmittedSteps : public SessionTest {
 protected:
  SubmittedSteps() {
    Charge charge = charge_of("j", 1);
    charge.mechanism.sample_rate = 1.0;
    ledger_ = Ledger::in_memory(budget_of(1e300), clock_).value();
    session_.emplace(open(charge).value());
    functions_ = model_.functions(*stream_);
  }
  Result<PendingStep> submit(float loss = 1.0f) {
    GradientFunctions<VectorRecord> functions = functions_;
    functions.per_sample = [&, loss](auto part, auto& out) {
      functions_.per_sample(part, out);
      out.losses = losses_of(*stream_, std::vector<float>(part.size(), loss));
    };
    return session_->submit_dp_sgd_step<VectorRecord>(*stream_, records_, model_.parameters(*stream_), functions,
                                                      update_);
  }
  Result<Contribution> contribute() {
    TensorMap tensors;
    tensors["weight"] = HostTensor::from_f32({1}, std::vector<float>{1.0f});
    return session_->contribute(std::move(tensors), 1.0);
  }

  const std::unique_ptr<kernels::Stream> stream_ = kernels::cpu_device().make_stream();
  const RecordStore<VectorRecord> records_{equal_records(5, {1.0f})};
  const VectorModel model_;
  GradientFunctions<VectorRecord> functions_;
  std::function<void(const std::vector<kernels::Tensor>&)> update_ = [](const auto&) {};
  std::optional<PrivacySession> session_;
};

TEST_F(SubmittedSteps, AreReportedInAnyOrderAndAsOftenAsOneLikes) {
  const PendingStep first = submit(1.0f).value(), second = submit(2.0f).value();
  PrivacySession moved = std::move(*session_);
  session_.emplace(std::move(moved));
  EXPECT_EQ(second.report().value().mean_loss, 2.0);
  for (int i = 0; i < 2; ++i) {
    const StepReport report = first.report().value();
    EXPECT_EQ(report.step, 1);
    EXPECT_EQ(report.sample_count, 5);
    EXPECT_EQ(report.mean_loss, 1.0);
    EXPECT_EQ(report.micro_batch, 5);
  }
  EXPECT_TRUE(contribute().ok());
}

TEST_F(SubmittedSteps, WhoseLossNobodyHasLookedAtAreNotContributed) {
  ASSERT_TRUE(submit().value().report().ok());
  {
    const PendingStep unseen = submit(std::nanf("")).value();  // and forgotten
  }
  const auto refused = contribute();
  EXPECT_EQ(refused.error().code, Errc::internal);
  EXPECT_THAT(refused.error().message, HasSubstr("step 2 of 10"));
  EXPECT_THAT(refused.error().message, HasSubstr("report"));
  EXPECT_EQ(submit().error().code, Errc::limit_exceeded) << "the session is abandoned";
  EXPECT_EQ(contribute().error().code, Errc::limit_exceeded);
}

TEST_F(SubmittedSteps, ThatAreGoodAreNotContributedUnseenEither) {
  const PendingStep unseen = submit().value();
  EXPECT_EQ(contribute().error().code, Errc::internal);
  EXPECT_FALSE(unseen.report().ok());
  EXPECT_FALSE(contribute().ok());
}

TEST_F(SubmittedSteps, AfterABadOneEndInFailureWhicheverIsReportedFirst) {
  const PendingStep good = submit().value(), bad = submit(std::nanf("")).value(), later = submit().value();
  const auto failed = later.report();
  EXPECT_EQ(failed.error().code, Errc::limit_exceeded);
  EXPECT_THAT(failed.error().message, HasSubstr("abandoned at step 2"));
  EXPECT_EQ(bad.report().error().code, Errc::invalid_argument);
  EXPECT_THAT(bad.report().error().message, HasSubstr("step 2 of 10"));
  EXPECT_TRUE(good.report().ok());
  EXPECT_EQ(submit().error().code, Errc::limit_exceeded);
  EXPECT_EQ(contribute().error().code, Errc::limit_exceeded);
}

TEST_F(SubmittedSteps, ThatFailBeforeTheirUpdateLeaveNothingToLookAtAndOthersDo) {
  const GradientFunctions<VectorRecord> whole = functions_;
  functions_.per_sample = [](auto, auto&) { throw std::runtime_error("broken"); };
  EXPECT_THROW((void)submit(), std::runtime_error);
  functions_ = whole;
  ASSERT_TRUE(submit().value().report().ok());
  update_ = [](const auto&) { throw std::runtime_error("broken"); };
  EXPECT_THROW((void)submit(), std::runtime_error);
  update_ = [](const auto&) {};
  const auto later = submit().value().report();
  EXPECT_EQ(later.error().code, Errc::limit_exceeded);
  EXPECT_THAT(later.error().message, HasSubstr("abandoned at step 3"));
  EXPECT_FALSE(contribute().ok());
}

TEST_F(SubmittedSteps, WithoutLossesAreABug) {
  GradientFunctions<VectorRecord> functions = functions_;
  functions.per_sample = [&](auto part, auto& out) {
    functions_.per_sample(part, out);
    out.losses = {};
  };
  EXPECT_THROW((void)session_->submit_dp_sgd_step<VectorRecord>(*stream_, records_, model_.parameters(*stream_),
                                                                functions, update_),
               std::invalid_argument);
}

TEST_F(SessionTest, ALossThatIsNoFiniteNumberEndsTheRoundAndItsChargeStays) {
  ledger_ = Ledger::in_memory(budget_of(1e300), clock_).value();
  for (const double loss : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Charge charge = charge_of("j", std::isnan(loss) ? 1 : 2);
    charge.mechanism.sample_rate = 1.0;
    PrivacySession session = open(charge).value();
    const RecordStore<VectorRecord> records(equal_records(5, {1.0f}));
    const auto stream = kernels::cpu_device().make_stream();
    const VectorModel model;
    GradientFunctions<VectorRecord> functions = model.functions(*stream);
    functions.micro_batch = 2;
    bool fails = false;
    functions.per_sample = [&, inner = functions.per_sample](auto part, auto& out) {
      inner(part, out);
      if (fails && part.size() == 1) out.losses = losses_of(*stream, {static_cast<float>(loss)});
    };
    const auto take = [&] {
      return session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions,
                                               [](const auto&) {});
    };
    ASSERT_TRUE(take().ok());
    fails = true;
    const auto failed = take();
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, Errc::invalid_argument);
    EXPECT_THAT(failed.error().message, HasSubstr("step 2 of 10"));
    EXPECT_THAT(failed.error().message, HasSubstr("learning rate"));
    fails = false;
    EXPECT_EQ(take().error().code, Errc::limit_exceeded);
    TensorMap tensors;
    tensors["weight"] = HostTensor::from_f32({1}, std::vector<float>{1.0f});
    EXPECT_EQ(session.contribute(std::move(tensors), 1.0).error().code, Errc::limit_exceeded);
  }
  EXPECT_EQ(ledger_->entries().size(), 2u);
}

TEST(StepWithoutMemory, HalvesItsMicroBatchesAndGivesTheSameResult) {
  std::vector<VectorRecord> data;
  for (int i = 0; i < 23; ++i) data.push_back({{0.01f * static_cast<float>(i), -0.3f}});
  const RecordStore<VectorRecord> records(data);
  const Mechanism mechanism = gaussian(1.0, 1.0, 0.1, 3);
  TestSession roomy(mechanism, 23), tight(mechanism, 23);
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model{.vector_size = 2, .micro_batch = 16};
  GradientFunctions<VectorRecord> functions = model.functions(*stream);
  std::vector<std::size_t> sizes;
  functions.per_sample = [&, inner = functions.per_sample](auto part, auto& out) {
    sizes.push_back(part.size());
    if (part.size() > 5) throw std::bad_alloc();
    inner(part, out);
  };
  for (int number = 1; number <= 3; ++number) {
    sizes.clear();
    std::vector<float> gradient;
    const StepReport report =
        tight.session
            .dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions,
                                       [&](const std::vector<kernels::Tensor>& mean) {
                                         const HostTensor host = mean.at(0).to_host(*stream);
                                         gradient.assign(host.as<float>().begin(), host.as<float>().end());
                                       })
            .value();
    EXPECT_EQ(step(roomy.session, records, model).second, gradient);
    EXPECT_EQ(report.sample_count, 23);
    EXPECT_EQ(report.mean_loss, 1.0);
    EXPECT_EQ(report.micro_batch, 3);
    // Two micro-batches of 12 and 11 records: 12 and 6 fail once; from then on nothing larger than 3 is tried.
    EXPECT_EQ(std::count_if(sizes.begin(), sizes.end(), [](std::size_t size) { return size > 5; }),
              number == 1 ? 2 : 0);
    EXPECT_EQ(*std::ranges::max_element(sizes), number == 1 ? 12 : 3);
  }
}

TEST(StepWithoutMemory, ARecordThatDoesNotFitAloneIsAnError) {
  TestSession test(gaussian(1.0, 1.0, 0.1, 3), 5);
  const RecordStore<VectorRecord> records(equal_records(5, {1.0f}));
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  GradientFunctions<VectorRecord> functions = model.functions(*stream);
  functions.per_sample = [](auto, auto&) { throw std::bad_alloc(); };
  EXPECT_THROW((void)test.session.dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), functions,
                                                            [](const auto&) {}),
               std::bad_alloc);
}

// --- Several devices ---

// Three steps of a model whose update moves it, on `count` devices; what every replica's update received.
std::vector<std::vector<float>> steps_on(std::size_t count, const Mechanism& mechanism, std::size_t fails_on = 99) {
  std::vector<VectorRecord> data;
  for (int i = 0; i < 37; ++i)
    data.push_back({{0.01f * static_cast<float>(i), -0.3f, 0.7f / static_cast<float>(i + 1)}});
  const RecordStore<VectorRecord> records(data);
  std::vector<std::unique_ptr<kernels::Device>> devices;  // outlive what the session keeps on them
  TestSession test(mechanism, 37);
  std::vector<std::unique_ptr<kernels::Stream>> streams;
  std::vector<kernels::Stream*> addresses;
  const VectorModel model{.vector_size = 2, .outer_size = 1, .micro_batch = 4};
  std::vector<GradientFunctions<VectorRecord>> functions;
  std::vector<std::vector<kernels::Tensor>> parameters;
  std::vector<std::vector<float>> received(count);
  std::vector<std::function<void(const std::vector<kernels::Tensor>&)>> updates;
  for (std::size_t d = 0; d < count; ++d) {
    devices.push_back(std::make_unique<kernels::ForwardingDevice>("device " + std::to_string(d)));
    streams.push_back(devices[d]->make_stream());
    addresses.push_back(streams[d].get());
    functions.push_back(model.functions(*streams[d]));
    functions[d].per_sample = [&, d, inner = functions[d].per_sample](auto part, auto& out) {
      inner(part, out);
      std::vector<float> losses;  // exact in float64, whatever the order
      for (const VectorRecord* record : part) losses.push_back(record->gradient[0]);
      out.losses = losses_of(*streams[d], losses);
    };
    if (d == fails_on)
      functions[d].per_sample = [](auto, auto&) { throw FatalError(Error{Errc::unavailable, "the device was lost"}); };
    parameters.push_back(model.parameters(*streams[d]));
    updates.push_back([&, d](const std::vector<kernels::Tensor>& mean) {
      for (const kernels::Tensor& tensor : mean) {
        EXPECT_EQ(&tensor.device(), devices[d].get());
        const HostTensor host = tensor.to_host(*streams[d]);
        received[d].insert(received[d].end(), host.as<float>().begin(), host.as<float>().end());
      }
    });
  }
  std::vector<Replica<VectorRecord>> replicas;
  for (std::size_t d = 0; d < count; ++d) replicas.push_back({*streams[d], parameters[d], functions[d], updates[d]});
  const auto collective = kernels::make_host_collective(addresses);
  for (int i = 0; i < 3; ++i) {
    const StepReport report = test.session.dp_sgd_step<VectorRecord>(replicas, collective.get(), records).value();
    EXPECT_EQ(report.step, i + 1);
    if (mechanism.sample_rate == 1.0) {
      // Over the records of all devices: 0.01·(0 + … + 36)/37.
      EXPECT_NEAR(report.mean_loss, 0.18, 1e-6);
      EXPECT_EQ(report.sample_count, 37);
      EXPECT_GT(report.clipped_fraction, 0.2);
    }
  }
  return received;
}

TEST(SeveralDevices, GiveTheBitsOfOneWhateverTheirNumber) {
  for (const double rate : {1.0, 0.3}) {
    const Mechanism mechanism = gaussian(rate, 1.0, 0.4, 3);
    const std::vector<float> one = steps_on(1, mechanism).front();
    ASSERT_EQ(one.size(), 9u);
    for (const std::size_t count : {2, 3, 7, 40})
      for (const std::vector<float>& replica : steps_on(count, mechanism)) EXPECT_EQ(replica, one) << count;
  }
}

TEST(SeveralDevices, WithoutPrivacyGiveTheMeanOfAllRecords) {
  Mechanism mechanism = gaussian(1.0, 0.0, 0.4, 3);
  mechanism.kind = MechanismKind::none;
  const std::vector<float> one = steps_on(1, mechanism).front();
  for (const std::vector<float>& replica : steps_on(3, mechanism)) {
    ASSERT_EQ(replica.size(), one.size());
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(replica[i], one[i], 1e-6);
  }
}

TEST(SeveralDevices, OneThatIsLostFailsTheStepWithItsOwnError) {
  EXPECT_THROW(steps_on(3, gaussian(1.0, 1.0, 0.4, 3), 2), FatalError);
}

// --- One step ---

TEST(Step, DividesByTheExpectedBatchNotByTheRealizedOne) {
  TestSession half(quiet(1.0, 10.0), 100);
  const RecordStore<VectorRecord> fifty(equal_records(50, {2.0f}));
  EXPECT_NEAR(step(half.session, fifty, {}).second.at(0), 1.0, 1e-5);  // 50 · 2 / (1.0 · 100)

  TestSession sampled(quiet(0.25, 10.0), 100);
  const RecordStore<VectorRecord> hundred(equal_records(100, {2.0f}));
  const auto [report, gradient] = step(sampled.session, hundred, {});
  EXPECT_NE(report.sample_count, 25);
  EXPECT_NEAR(gradient.at(0), 2.0 * static_cast<double>(report.sample_count) / 25.0, 1e-5);
}

TEST(Step, ClipsTheJointNormOverAllTensorsInBothForms) {
  const VectorModel model{2, 2};
  TestSession test(quiet(1.0, 0.5), 1);
  const RecordStore<VectorRecord> records(equal_records(1, {10.0f, -20.0f, 20.0f, 40.0f}));  // of norm 50
  const auto [report, gradient] = step(test.session, records, model);
  EXPECT_EQ(report.clipped_fraction, 1.0);
  const double expected[] = {0.1, -0.2, 0.2, 0.4};
  double squares = 0.0;
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(gradient.at(i), expected[i], 1e-5);
    squares += static_cast<double>(gradient[i]) * gradient[i];
  }
  EXPECT_LE(std::sqrt(squares), 0.5);
}

TEST(Step, OneRecordNeverMovesTheSumByMoreThanTheClipNorm) {
  for (const float size : {1e-3f, 0.3f, 1.0f, 1e3f, 1e18f}) {
    TestSession test(quiet(1.0, 0.5), 1);
    const RecordStore<VectorRecord> records(equal_records(1, {size, 0.0f, size}));
    const std::vector<float> gradient = step(test.session, records, {3}).second;
    EXPECT_LE(std::hypot(gradient[0], gradient[1], gradient[2]), 0.5 + 1e-8) << size;
  }
}

TEST(Step, LeavesSmallGradientsAlone) {
  TestSession test(quiet(1.0, 1.0), 1);
  const RecordStore<VectorRecord> records(equal_records(1, {0.25f, -0.5f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_EQ(report.clipped_fraction, 0.0);
  EXPECT_NEAR(gradient.at(0), 0.25, 1e-7);
  EXPECT_NEAR(gradient.at(1), -0.5, 1e-7);
}

TEST(Step, CountsWhatWasClippedOverAllMicroBatchesOfThisStepAlone) {
  Mechanism two_steps = quiet(1.0, 1.0);
  two_steps.steps = 2;
  TestSession test(two_steps, 10);
  std::vector<VectorRecord> mixed(10, VectorRecord{{0.5f}});
  for (const std::size_t large : {0, 4, 5, 9}) mixed[large].gradient[0] = 3.0f;
  const VectorModel by_threes{.micro_batch = 3};
  EXPECT_DOUBLE_EQ(step(test.session, RecordStore(mixed), by_threes).first.clipped_fraction, 0.4);
  EXPECT_EQ(step(test.session, RecordStore(equal_records(10, {0.5f})), by_threes).first.clipped_fraction, 0.0);
}

TEST(Step, ATableByItsRowsGivesTheBitsOfTheWholeOne) {
  // 40 rows of 64; a record has some of them, one has none, one has all, one is so long that it is clipped by much.
  constexpr std::int64_t columns = 64, table_rows = 40;
  ChaCha20Random random(RandomKey::from_seed(8));
  std::vector<VectorRecord> records(60, VectorRecord{std::vector<float>(table_rows * columns + 5, 0.0f)});
  for (std::size_t i = 0; i < records.size(); ++i) {
    for (std::size_t row = 0; row < table_rows; ++row) {
      if (i == 1 || (i != 2 && random.below(5) != 0)) continue;
      for (std::size_t j = 0; j < columns; ++j)
        records[i].gradient[row * columns + j] = static_cast<float>((i == 3 ? 100.0 : 1.0) * (random.uniform() - 0.5));
    }
    for (std::size_t j = 0; j < 5; ++j)
      records[i].gradient[table_rows * columns + j] = static_cast<float>(random.uniform());
  }
  const RecordStore<VectorRecord> store(std::move(records));
  for (const NoiseKind noise : {NoiseKind::discrete_gaussian, NoiseKind::float_gaussian}) {
    Mechanism mechanism = gaussian(0.8, 1.5, 5.0, 2);
    mechanism.noise = noise;
    VectorModel whole{.vector_size = table_rows * columns, .outer_size = 5, .micro_batch = 16, .columns = columns};
    VectorModel rows = whole;
    rows.gives_rows = true;
    TestSession first(mechanism, 60), second(mechanism, 60);
    for (int i = 0; i < 2; ++i) {
      const auto [whole_report, whole_mean] = step(first.session, store, whole);
      const auto [rows_report, rows_mean] = step(second.session, store, rows);
      EXPECT_GT(rows_report.clipped_fraction, 0.05);
      EXPECT_LT(rows_report.clipped_fraction, 0.95);
      EXPECT_EQ(rows_report.clipped_fraction, whole_report.clipped_fraction);
      EXPECT_EQ(rows_mean, whole_mean);
    }
  }
}

// Norms of these records are exact, so clip factors have the same bits; what follows is integers.
TEST(Step, IsTheSameOnAGpuBitForBit) {
  const Result<kernels::Device*> gpu = kernels::open_device("cuda");
  if (!gpu) GTEST_SKIP() << gpu.error().message;
  std::vector<VectorRecord> records(500, VectorRecord{{3.0f, -4.0f, 12.0f, 0.0f, 0.0f}});  // of norm 13
  for (std::size_t i = 0; i < records.size(); i += 3) records[i].gradient = {0.0f, 0.25f, 0.0f, 0.5f, -0.25f};
  records[7].gradient[1] = std::numeric_limits<float>::infinity();
  const RecordStore<VectorRecord> store(records);
  const auto run = [&](kernels::Device& device, bool gives_rows) {
    const VectorModel model{
        .vector_size = 3, .outer_size = 2, .micro_batch = 64, .columns = 1, .gives_rows = gives_rows};
    TestSession test(gaussian(0.5, 0.7, 1.0, 2), 500);
    const auto stream = device.make_stream();
    auto [report, gradient] = step(test.session, store, model, *stream);
    const std::vector<float> second = step(test.session, store, model, *stream).second;
    gradient.insert(gradient.end(), second.begin(), second.end());
    return std::pair(report.clipped_fraction, gradient);
  };
  const auto on_cpu = run(kernels::cpu_device(), false);
  EXPECT_GT(on_cpu.first, 0.5);
  EXPECT_EQ(run(**gpu, false), on_cpu);
  EXPECT_EQ(run(**gpu, true), run(kernels::cpu_device(), true));
}

TEST(Step, AutomaticClippingScalesEveryRecordToTheClipNorm) {
  for (const float size : {1e-4f, 0.3f, 1e3f}) {
    TestSession test(quiet(1.0, 0.5, Clipping::automatic), 1);
    const RecordStore<VectorRecord> records(equal_records(1, {size, 0.0f, -size}));
    const std::vector<float> gradient = step(test.session, records, {3}).second;
    const double norm = std::sqrt(2.0) * static_cast<double>(size);
    EXPECT_NEAR(gradient[0] / (0.5 * static_cast<double>(size) / (norm + 0.01)), 1.0, 2e-5) << size;
    EXPECT_LE(std::hypot(gradient[0], gradient[2]), 0.5) << size;
  }
}

TEST(Step, ARecordWithoutAFiniteGradientIsLeftOut) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TestSession again(quiet(1.0, 1.0), 1);
    const RecordStore<VectorRecord> records({VectorRecord{{bad}}, VectorRecord{{0.5f}}});
    EXPECT_NEAR(step(again.session, records, {}).second.at(0), 0.5, 1e-6);
  }
}

TEST(Step, AnEmptySampleIsNoisedAndCounted) {
  TestSession test(gaussian(0.01, 2.0, 0.5, 3), 1000);
  const RecordStore<VectorRecord> nobody(std::vector<VectorRecord>{});
  const auto [report, gradient] = step(test.session, nobody, {1000});
  EXPECT_EQ(report.sample_count, 0);
  EXPECT_EQ(report.mean_loss, 0.0);
  EXPECT_EQ(test.session.steps_left(), 2);
  double squares = 0.0;
  for (const float value : gradient) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(std::sqrt(squares / 1000.0), 2.0 * 0.5 / 10.0, 0.01);
}

TEST(Step, MicroBatchesAndTheirOrderDoNotChangeTheMechanism) {
  std::vector<VectorRecord> many;
  for (int i = 0; i < 200; ++i) many.push_back({{static_cast<float>(i), 1.0f}});
  const RecordStore<VectorRecord> records(many);
  std::vector<std::vector<float>> results;
  for (const std::int64_t micro_batch : {1, 7, 1000}) {
    TestSession test(gaussian(0.5, 0.1, 1.0, 1), 200);
    results.push_back(step(test.session, records, {2, 0, micro_batch}).second);
  }
  for (const auto& result : results) {
    EXPECT_NEAR(result[0], results[0][0], 1e-6);
    EXPECT_NEAR(result[1], results[0][1], 1e-6);
  }
}

TEST(Step, ReportsTheLossAndTheSampleToTheSite) {
  TestSession test(gaussian(1.0, 1.0, 1.0, 1), 10);
  const RecordStore<VectorRecord> records(equal_records(10, {0.1f}));
  const StepReport report = step(test.session, records, {}).first;
  EXPECT_EQ(report.sample_count, 10);
  EXPECT_DOUBLE_EQ(report.mean_loss, 1.0);
}

TEST(Step, WithoutPrivacyTheSumIsExactAndDividedByTheExpectedBatch) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  const RecordStore<VectorRecord> records(equal_records(5, {300.0f, -1.0f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_EQ(gradient, (std::vector<float>{150.0f, -0.5f}));
  EXPECT_EQ(report.clipped_fraction, 0.0);
}

TEST(Step, WithoutPrivacyRecordsAreClippedWhereTheMechanismHasAClipNorm) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 5.0, 1}, 10);
  const RecordStore<VectorRecord> records(equal_records(5, {300.0f, -400.0f}));
  const auto [report, gradient] = step(test.session, records, {2});
  EXPECT_NEAR(gradient[0], 0.5 * 3.0, 1e-4);
  EXPECT_NEAR(gradient[1], 0.5 * -4.0, 1e-4);
  EXPECT_EQ(report.clipped_fraction, 1.0);
}

TEST(Step, OneKeyInTwoRoundsGivesTwoNoises) {
  ManualClock clock;
  const auto ledger = Ledger::in_memory(budget_of(1e9), clock).value();
  const RandomKey key = RandomKey::from_seed(3);
  const RecordStore<VectorRecord> nobody(std::vector<VectorRecord>{});
  PrivacySession first = PrivacySession::open(*ledger, charge_of("j", 1), false, key, clock).value();
  PrivacySession second = PrivacySession::open(*ledger, charge_of("j", 2), false, key, clock).value();
  EXPECT_NE(step(first, nobody, {4}).second, step(second, nobody, {4}).second);
}

// --- The grid ---

constexpr Clipping kClippings[] = {Clipping::flat, Clipping::automatic};

Mechanism on_grid(double noise_multiplier, double clip_norm, Clipping clipping = Clipping::flat) {
  Mechanism mechanism = gaussian(1.0, noise_multiplier, clip_norm, 1);
  mechanism.clipping = clipping;
  return mechanism;
}

// What a whole step came to in grid points, at q = 1 and one declared record. The noise is small enough for float32 to
// hold its integers.
std::vector<std::int64_t> points(const Mechanism& mechanism, std::vector<VectorRecord> records,
                                 const VectorModel& model) {
  TestSession test(mechanism, 1);
  const double spacing = noise_grid(mechanism, model.vector_size + model.outer_size).spacing;
  const RecordStore<VectorRecord> store(std::move(records));
  std::vector<std::int64_t> result;
  for (const float value : step(test.session, store, model).second) {
    const double at = static_cast<double>(value) / spacing;
    EXPECT_NEAR(at, std::round(at), 0.3) << "a result between two points of the grid, beyond the rounding to float32";
    result.push_back(std::llrint(at));
  }
  return result;
}

TEST(Grid, TheNoiseIsTheChargedMultipleOfTheTrueSensitivity) {
  for (const double noise_multiplier : {1.0 / 64, 0.03, 0.5, 0.999, 1.0, 3.7, 1e4, 16384.0}) {
    for (const double clip_norm : {1e-9, 0.1, 3.0, 1e9}) {
      for (const std::int64_t coordinates : {std::int64_t{1}, std::int64_t{27'000}, std::int64_t{1} << 30}) {
        const NoiseGrid grid = noise_grid(on_grid(noise_multiplier, clip_norm), coordinates);
        const double sensitivity = clip_norm + grid.spacing * std::sqrt(static_cast<double>(coordinates)) / 2;
        const double stddev = std::ldexp(grid.spacing, grid.log2_stddev);
        EXPECT_NEAR(stddev / sensitivity / noise_multiplier, 1.0, 1e-12);
        EXPECT_LE(clip_norm / grid.spacing, 0x1p22);
        EXPECT_GE(clip_norm / grid.spacing, 0x1p21 - std::sqrt(static_cast<double>(coordinates)) / 2);
        EXPECT_GE(grid.log2_stddev, 16);
        EXPECT_LE(grid.log2_stddev, 36);
      }
    }
  }
  EXPECT_LT(noise_grid(on_grid(1.0, 1.0), 27'000).spacing * std::sqrt(27'000) / 2, 1e-4) << "of the clip norm";
}

TEST(Grid, ARecordMovesTheResultByExactlyItsOwnIntegersWhateverElseIsInIt) {
  for (const Clipping clipping : kClippings) {
    const Mechanism mechanism = on_grid(1.0 / 64, 0.7, clipping);
    const VectorModel model{5, 3};
    const double spacing = noise_grid(mechanism, 8).spacing;
    const VectorRecord one{{0.1f, -0.2f, 0.3f, 0.01f, 5.0f, -1.0f, 2.0f, 0.0f}};
    const VectorRecord other{{3.0f, 0.2f, -0.3f, 0.01f, 0.5f, 1.0f, -20.0f, 7.0f}};
    const auto nobody = points(mechanism, {}, model), first = points(mechanism, {one}, model),
               second = points(mechanism, {other}, model), both = points(mechanism, {one, other}, model);
    double squares = 0.0, norm = 0.0;
    for (const float g : other.gradient) norm += static_cast<double>(g) * static_cast<double>(g);
    norm = std::sqrt(norm);
    for (std::size_t i = 0; i < 8; ++i) {
      const std::int64_t added = second[i] - nobody[i];
      EXPECT_EQ(both[i] - first[i], added) << i;
      const double expected = static_cast<double>(other.gradient[i]) * 0.7 * (1.0 - 1e-5) /
                              (clipping == Clipping::flat ? norm : norm + 0.01) / spacing;
      EXPECT_NEAR(static_cast<double>(added), expected, 0.5 + 1e-6 * std::abs(expected)) << i;
      squares += static_cast<double>(added) * static_cast<double>(added);
    }
    EXPECT_LE(std::sqrt(squares) * spacing, 0.7 + spacing * std::sqrt(8.0) / 2);
  }
}

TEST(Grid, TheNoiseIsTheKeystreamOfTheChargeWithoutABlockUsedTwice) {
  const Mechanism mechanism = on_grid(1.0 / 64, 1.0);
  TestSession test(mechanism, 1);
  const Subkey subkey(RandomKey::from_seed(1), "noise", test.session.charge());
  const auto stream = kernels::cpu_device().make_stream();
  // The two tensors of the model begin at multiples of 16 coordinates.
  const kernels::Tensor y = kernels::Tensor::zeros(*stream, DType::i64, {112 + 16});
  kernels::add_discrete_gaussian_noise(*stream, noise_grid(mechanism, 107).log2_stddev, subkey.bytes(), 1, 0, y);
  const HostTensor on_host = y.to_host(*stream);
  const auto noise = on_host.as<std::int64_t>();
  std::vector<std::int64_t> expected(noise.begin(), noise.begin() + 100);
  expected.insert(expected.end(), noise.begin() + 112, noise.begin() + 119);
  EXPECT_EQ(points(mechanism, {}, {100, 7}), expected);
}

TEST(Grid, TakesOnlyNoiseThatItsArgumentCovers) {
  for (const double noise_multiplier : {1.0 / 65, 16385.0}) {
    Charge charge = charge_of("j", 1);
    charge.mechanism.noise_multiplier = noise_multiplier;
    EXPECT_THAT(check_charge(charge).error().message, HasSubstr("from 1/64 to 16384 for the discrete Gaussian"));
    charge.mechanism.noise = NoiseKind::float_gaussian;
    EXPECT_TRUE(check_charge(charge).ok());
  }
  EXPECT_THROW((void)noise_grid(on_grid(1.0, 1.0), (std::int64_t{1} << 40) + 1), std::invalid_argument);
}

// --- A sum over all records ---

SummandFunctions<VectorRecord> summands_of(const VectorModel& model, kernels::Stream& stream) {
  SummandFunctions<VectorRecord> functions;
  functions.micro_batch = model.micro_batch;
  functions.per_record = [per_sample = model.functions(stream).per_sample](auto records, auto& out) {
    per_sample(records, out);
  };
  return functions;
}

Result<std::vector<HostTensor>> release(PrivacySession& session, const RecordStore<VectorRecord>& records,
                                        const VectorModel& model) {
  const auto stream = kernels::cpu_device().make_stream();
  return session.release_sum<VectorRecord>(*stream, records, {{model.vector_size}}, summands_of(model, *stream));
}

TEST(ReleaseSum, IsTheSumOfClippedRecordsAndNoiseOfTheChargedSpread) {
  const std::vector<VectorRecord> records{{{0.5f, 0.25f}}, {{30.0f, 40.0f}}, {{-0.125f, 0.0f}}};
  for (const NoiseKind noise : {NoiseKind::discrete_gaussian, NoiseKind::float_gaussian}) {
    Mechanism mechanism = on_grid(1.0 / 64, 1.0);
    mechanism.noise = noise;
    double squares = 0.0;
    constexpr int kSessions = 200;
    for (int seed = 0; seed < kSessions; ++seed) {
      TestSession test(mechanism, 1000, static_cast<std::uint64_t>(seed));
      const auto sums = release(test.session, RecordStore<VectorRecord>(records), {2, 0, 2}).value();
      ASSERT_EQ(sums.at(0).dtype(), DType::f64);
      const double first = sums[0].as<double>()[0] - (0.5 + 0.6 - 0.125);
      const double second = sums[0].as<double>()[1] - (0.25 + 0.8);
      squares += (first * first + second * second) * 64 * 64;
      EXPECT_LT(std::hypot(first, second), 7.0 / 64);
    }
    EXPECT_NEAR(squares / (2 * kSessions), 1.0, 0.35);  // chi-square of 400 degrees: five deviations
  }
}

TEST(ReleaseSum, MovesByExactlyARecordsIntegers) {
  const Mechanism mechanism = on_grid(1.0, 1.0);
  const double spacing = noise_grid(mechanism, 2).spacing;
  const VectorRecord one{{0.3f, 0.1f}}, other{{-5.0f, 2.0f}};
  const auto of = [&](std::vector<VectorRecord> records) {
    TestSession test(mechanism, 10);
    return release(test.session, RecordStore<VectorRecord>(std::move(records)), {2}).value()[0];
  };
  const HostTensor nobody = of({}), first = of({one}), second = of({other}), both = of({one, other});
  for (std::size_t i = 0; i < 2; ++i) {
    const auto at = [&](const HostTensor& sum) { return std::llrint(sum.as<double>()[i] / spacing); };
    EXPECT_EQ(at(nobody) * spacing, nobody.as<double>()[i]) << "a point of the grid";
    EXPECT_EQ(at(both) - at(first), at(second) - at(nobody));
    EXPECT_NE(at(second), at(nobody));
  }
}

TEST(ReleaseSum, HappensOnceForACharge) {
  TestSession test(on_grid(1.0, 1.0), 10);
  const RecordStore<VectorRecord> records(equal_records(3, {1.0f}));
  EXPECT_TRUE(release(test.session, records, {}).ok());
  EXPECT_EQ(release(test.session, records, {}).error().code, Errc::limit_exceeded);
  EXPECT_TRUE(test.session.contribute(TensorMap(), 1.0).ok()) << "what came out may be sent";
  TestSession contributed(on_grid(1.0, 1.0), 10);
  EXPECT_TRUE(contributed.session.contribute(TensorMap(), 1.0).ok());
  EXPECT_EQ(release(contributed.session, records, {}).error().code, Errc::limit_exceeded);
}

TEST(ReleaseSum, NeedsAChargeForEveryRecord) {
  TestSession test(gaussian(0.5, 1.0, 1.0, 1), 10);
  const auto refused = release(test.session, RecordStore<VectorRecord>(equal_records(3, {1.0f})), {});
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("charged with 0.5"));
  EXPECT_EQ(test.session.steps_left(), 1);
}

TEST(ReleaseSum, WithoutPrivacyIsExactBeyondFloats) {
  TestSession test({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  const RecordStore<VectorRecord> records({VectorRecord{{16777216.0f}}, VectorRecord{{1.0f}}, VectorRecord{{1.0f}}});
  EXPECT_EQ(release(test.session, records, {1, 0, 1}).value()[0].as<double>()[0], 16777218.0);
  TestSession empty({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  EXPECT_EQ(
      release(empty.session, RecordStore<VectorRecord>(std::vector<VectorRecord>{}), {}).value()[0].as<double>()[0],
      0.0);
}

TEST(ReleaseSum, WithoutPrivacyMayTakeAWholeMicroBatchAtOnce) {
  const RecordStore<VectorRecord> records(
      {VectorRecord{{0x1p-40f, 1.0f}}, VectorRecord{{1.0f, 2.0f}}, VectorRecord{{0x1p20f, 3.0f}}});
  std::vector<std::size_t> parts;
  SummandFunctions<VectorRecord> functions;
  functions.micro_batch = 2;
  functions.per_record = [](auto, auto&) { FAIL() << "the cheaper way is there"; };
  functions.summed = [&](std::span<const VectorRecord* const> part, const std::vector<kernels::Tensor>& sums) {
    const auto stream = kernels::cpu_device().make_stream();
    HostTensor sum = sums.at(0).to_host(*stream);
    EXPECT_EQ(sum.dtype(), DType::f64);
    for (const VectorRecord* record : part)
      for (std::size_t i = 0; i < 2; ++i) sum.as<double>()[i] += record->gradient[i];
    sums[0].copy_from_host(*stream, sum);
    parts.push_back(part.size());
  };
  const auto stream = kernels::cpu_device().make_stream();
  TestSession test({MechanismKind::none, 1.0, 0.0, 0.0, 1}, 10);
  const auto sums = test.session.release_sum<VectorRecord>(*stream, records, {{2}}, functions).value();
  EXPECT_THAT(parts, testing::ElementsAre(2, 1));
  EXPECT_EQ(sums.at(0).as<double>()[0], 0x1p-40 + 1.0 + 0x1p20) << "beyond floats";
  EXPECT_EQ(sums.at(0).as<double>()[1], 6.0);
  EXPECT_EQ(test.session.release_sum<VectorRecord>(*stream, records, {{2}}, functions).error().code,
            Errc::limit_exceeded);
}

TEST(ReleaseSum, UnderPrivacyLooksAtEachRecord) {
  const RecordStore<VectorRecord> records({VectorRecord{{3.0f, 4.0f}}});
  VectorModel model{2, 0, 2};
  const auto stream = kernels::cpu_device().make_stream();
  SummandFunctions<VectorRecord> functions = summands_of(model, *stream);
  functions.summed = [](auto, const auto&) { FAIL() << "nobody would clip"; };
  TestSession test(on_grid(1.0 / 64, 1.0), 1000);
  const auto sums = test.session.release_sum<VectorRecord>(*stream, records, {{2}}, functions).value();
  EXPECT_NEAR(sums.at(0).as<double>()[0], 0.6, 7.0 / 64);
}

// --- Leaving ---

TensorMap map_of(float value) {
  TensorMap tensors;
  tensors["w"] = HostTensor::from_f32({2}, std::vector<float>{value, -value});
  tensors["d"] = HostTensor::from_f64({1}, std::vector<double>{value});
  return tensors;
}

TEST_F(SessionTest, AContributionIsMultipliedByItsWeight) {
  PrivacySession session = open(charge_of("j", 1)).value();
  const Contribution contribution = session.contribute(map_of(0.5f), 4000.0).value();
  EXPECT_EQ(contribution.weight(), 4000.0);
  EXPECT_TRUE(contribution.is_private());
  EXPECT_EQ(contribution.tensors().at("w").as<float>()[1], -2000.0f);
  EXPECT_EQ(contribution.tensors().at("d").as<double>()[0], 2000.0);
}

TEST_F(SessionTest, AContributionWithoutPrivacySaysSo) {
  PrivacySession session = open(non_private_charge("j", 1), true).value();
  EXPECT_FALSE(session.contribute(map_of(1.0f), 1.0).value().is_private());
}

TEST_F(SessionTest, ContributesOnceAndTakesNoStepAfterwards) {
  PrivacySession session = open(charge_of("j", 1)).value();
  EXPECT_TRUE(session.contribute(map_of(1.0f), 1.0).ok());
  EXPECT_EQ(session.contribute(map_of(1.0f), 1.0).error().code, Errc::limit_exceeded);
  const auto stream = kernels::cpu_device().make_stream();
  const VectorModel model;
  const RecordStore<VectorRecord> records(equal_records(1, {1.0f}));
  EXPECT_EQ(session
                .dp_sgd_step<VectorRecord>(*stream, records, model.parameters(*stream), model.functions(*stream),
                                           [](const auto&) {})
                .error()
                .code,
            Errc::limit_exceeded);
}

TEST_F(SessionTest, RefusesWeightsAndTensorsThatCannotBeSummed) {
  PrivacySession session = open(charge_of("j", 1)).value();
  for (const double weight : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(session.contribute(map_of(1.0f), weight).error().code, Errc::invalid_argument);
  }
  TensorMap half = map_of(1.0f);
  half["h"] = HostTensor(DType::f16, {2});
  EXPECT_THAT(session.contribute(half, 1.0).error().message, HasSubstr("'h' is F16"));
  EXPECT_FALSE(session.contribute(map_of(std::numeric_limits<float>::quiet_NaN()), 1.0).ok());
  EXPECT_TRUE(session.contribute(map_of(1.0f), 1.0).ok()) << "a refusal costs nothing";
}

TEST(Contribution, IsRestoredFromTheOutboxAsItWas) {
  const Contribution contribution = PrivacySession::restore(map_of(2.0f), 7.0, true);
  EXPECT_EQ(contribution.tensors(), map_of(2.0f));
  EXPECT_EQ(contribution.weight(), 7.0);
  EXPECT_TRUE(contribution.is_private());
}

}  // namespace
}  // namespace trib::privacy
