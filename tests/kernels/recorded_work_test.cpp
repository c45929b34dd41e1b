// Work that is recorded: when it is called, when its recording is submitted, how many are kept; and on a GPU that a
// recording gives the bits that the work itself gives.
#include "kernels/recorded_work.h"

#include <cstring>
#include <stdexcept>

#include "kernels/activation.h"
#include "kernels/per_sample.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

// A CPU stream that counts recordings. They do nothing.
class CountingStream final : public Stream {
 public:
  Device& device() override { return cpu_device(); }
  void synchronize() override {}
  bool records() const override { return true; }
  std::unique_ptr<Recording> record(const std::function<void()>& work) override {
    if (refuses) return nullptr;
    ++recorded;
    work();
    return std::make_unique<Counted>(*this);
  }

  bool refuses = false;
  int recorded = 0, submitted = 0, alive = 0;

 private:
  struct Counted final : Recording {
    explicit Counted(CountingStream& by) : stream(by) { ++stream.alive; }
    ~Counted() override { --stream.alive; }
    void submit() override { ++stream.submitted; }
    CountingStream& stream;
  };
};

TEST(RecordedWork, RunsThenRecordsThenSubmitsTheRecording) {
  CountingStream stream;
  RecordedWork recorded;
  int calls = 0;
  for (int i = 0; i < 5; ++i) recorded.run(stream, {1, 2}, [&] { ++calls; });
  EXPECT_EQ(calls, 2);  // as it is, and for the recording
  EXPECT_EQ(stream.recorded, 1);
  EXPECT_EQ(stream.submitted, 4);
  recorded.run(stream, {1, 3}, [&] { ++calls; });
  EXPECT_EQ(calls, 3) << "another key is other work";
}

TEST(RecordedWork, KeepsTheRecordingsThatWereUsedLast) {
  CountingStream stream;
  {
    RecordedWork recorded(2);
    const auto run = [&](std::int64_t key) { recorded.run(stream, {key}, [] {}); };
    for (const std::int64_t key : {1, 1, 2, 2}) run(key);
    run(1);  // 2 is the one that was not used for longest
    run(3);
    run(3);
    EXPECT_EQ(recorded.size(), 2u);
    EXPECT_EQ(stream.alive, 2);
    EXPECT_EQ(stream.recorded, 3);
    run(1);
    EXPECT_EQ(stream.recorded, 3);
    run(2);
    run(2);
    EXPECT_EQ(stream.recorded, 4) << "2 made room and is recorded anew";
    for (std::int64_t key = 10; key < 100; ++key) run(key), run(key);
    EXPECT_EQ(recorded.size(), 2u);
    EXPECT_EQ(stream.alive, 2);
  }
  EXPECT_EQ(stream.alive, 0);
}

TEST(RecordedWork, CallsWorkThatCannotBeRecordedEachTime) {
  CountingStream stream;
  stream.refuses = true;
  RecordedWork recorded;
  int calls = 0;
  for (int i = 0; i < 4; ++i) recorded.run(stream, {1}, [&] { ++calls; });
  EXPECT_EQ(calls, 4);
  stream.refuses = false;
  RecordedWork none(0);
  for (int i = 0; i < 4; ++i) none.run(stream, {1}, [&] { ++calls; });
  EXPECT_EQ(calls, 8);
  EXPECT_EQ(stream.recorded, 0);
}

TEST(RecordedWork, IsCalledEachTimeOnADeviceThatDoesNotRecord) {
  const auto stream = cpu_device().make_stream();
  RecordedWork recorded;
  int calls = 0;
  for (int i = 0; i < 3; ++i) recorded.run(*stream, {1}, [&] { ++calls; });
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(recorded.size(), 0u);
}

TEST(WorkspaceLayout, StaysWhileTheSameTakesGiveTheSameAddresses) {
  Workspace workspace(cpu_device()), other(cpu_device());
  const auto use = [&](std::int64_t elements) {
    workspace.reset();
    workspace.take(DType::f32, {elements});
    return workspace.layout();
  };
  const std::int64_t first = use(1000);
  EXPECT_EQ(use(1000), first);
  EXPECT_EQ(use(10), first);
  EXPECT_NE(use(1'000'000), first) << "it grew";
  const std::int64_t grown = use(1'000'000);
  EXPECT_EQ(use(1'000'000), grown);
  other.take(DType::f32, {1});
  EXPECT_NE(other.layout(), grown);
}

class RecordingOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    Result<Device*> device = open_device("cuda");
    if (!device) GTEST_SKIP() << device.error().message;
    gpu = (*device)->make_stream();
  }
  Tensor on_gpu(std::int64_t count, unsigned seed) {
    const std::vector<float> values = random_floats(count, seed);
    return Tensor::from_host(*gpu, std::span<const float>(values));
  }
  std::unique_ptr<Stream> gpu;
};

// Work with memory of its own, as operations have it.
void some_work(Stream& stream, const Tensor& x, const Tensor& y) {
  const Tensor inner(stream.device(), DType::f32, x.shape());
  tanh(stream, x, inner);
  const Tensor copy(stream.device(), DType::f32, x.shape());
  copy.copy_from(stream, inner);
  y.zero(stream);
  axpy(stream, 2.0, copy, y);
}

TEST_F(RecordingOnGpu, GivesTheBitsOfTheWorkItselfForWhatTheTensorsHoldNow) {
  const Tensor x = on_gpu(10'000, 1), y = on_gpu(10'000, 2), expected = on_gpu(10'000, 3);
  RecordedWork recorded;
  for (unsigned i = 0; i < 5; ++i) {
    x.copy_from(*gpu, on_gpu(10'000, 10 + i));
    some_work(*gpu, x, expected);
    recorded.run(*gpu, {1}, [&] { some_work(*gpu, x, y); });
    // Others take the memory that the recording's work gave back: it must not be theirs.
    const Tensor others = on_gpu(10'000, 7);
    recorded.run(*gpu, {1}, [&] { some_work(*gpu, x, y); });
    EXPECT_EQ(host(*gpu, others), random_floats(10'000, 7));
    EXPECT_EQ(host(*gpu, y), host(*gpu, expected)) << "run " << i;
  }
}

TEST_F(RecordingOnGpu, RefusesCopiesAndWaits) {
  const Tensor x = on_gpu(100, 1);
  EXPECT_THROW(gpu->record([&] { on_gpu(100, 2); }), std::logic_error);
  EXPECT_THROW(gpu->record([&] { x.to_host(*gpu); }), std::logic_error);
  EXPECT_THROW(gpu->record([&] { x.read(*gpu); }), std::logic_error);
  EXPECT_THROW(gpu->record([&] { gpu->synchronize(); }), std::logic_error);
  EXPECT_THROW(gpu->record([&] { gpu->record([] {}); }), std::logic_error);
  // Memory that outlives the work: not recorded, and a tensor as any other.
  Tensor kept;
  EXPECT_EQ(gpu->record([&] {
    kept = Tensor(gpu->device(), DType::f32, {100});
    kept.zero(*gpu);
  }),
            nullptr);
  kept.copy_from(*gpu, x);
  EXPECT_EQ(host(*gpu, kept), host(*gpu, x));
  EXPECT_TRUE(gpu->device().check().ok());
}

TEST_F(RecordingOnGpu, GivesItsMemoryBack) {
  const Tensor x = on_gpu(1 << 20, 1), y = on_gpu(1 << 20, 2);
  const auto peak_of = [&](int recordings) {
    gpu->device().trim();
    RecordedWork recorded(1);
    for (int i = 0; i < recordings; ++i)
      for (int run = 0; run < 3; ++run) recorded.run(*gpu, {i}, [&] { some_work(*gpu, x, y); });
    return gpu->device().peak_memory();
  };
  const std::size_t of_two = peak_of(2);
  EXPECT_EQ(peak_of(20), of_two);
}

TEST_F(RecordingOnGpu, ReadsWithoutAWaitGiveWhatWasThereThen) {
  const Tensor x = Tensor::zeros(*gpu, DType::i64, {1});
  std::vector<std::unique_ptr<HostRead>> reads;
  for (std::int64_t i = 0; i < 200; ++i) {
    x.copy_from(*gpu, Tensor::from_host(*gpu, std::span<const std::int64_t>(&i, 1)));
    reads.push_back(x.read(*gpu));
  }
  for (std::int64_t i = 0; i < 200; ++i) {
    std::int64_t value = -1;
    const auto bytes = reads[static_cast<std::size_t>(i)]->bytes();
    ASSERT_EQ(bytes.size(), sizeof value);
    std::memcpy(&value, bytes.data(), sizeof value);
    EXPECT_EQ(value, i);
    EXPECT_TRUE(reads[static_cast<std::size_t>(i)]->ready());
  }
}

}  // namespace
}  // namespace trib::kernels
