// Every operation on a GPU against its twin on the CPU.
#include "tests/kernels/operation_cases.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

std::vector<float> floats(Stream& stream, const Tensor& tensor) {
  const HostTensor copy = tensor.to_host(stream).to_f32().value();
  return {copy.as<float>().begin(), copy.as<float>().end()};
}

class OperationOnGpu : public testing::TestWithParam<OperationCase> {
 protected:
  void SetUp() override {
    Result<Device*> device = open_device("cuda");
    if (!device) GTEST_SKIP() << device.error().message;
    gpu = (*device)->make_stream();
  }
  std::unique_ptr<Stream> gpu, cpu = cpu_device().make_stream();
};

TEST_P(OperationOnGpu, AgreesWithTheCpu) {
  const PreparedOperation on_gpu = GetParam().prepare(*gpu), on_cpu = GetParam().prepare(*cpu);
  on_gpu.run();
  on_cpu.run();
  ASSERT_EQ(on_gpu.outputs.size(), on_cpu.outputs.size());
  for (std::size_t i = 0; i < on_cpu.outputs.size(); ++i) {
    const std::vector<float> reference = floats(*cpu, on_cpu.outputs[i]);
    const std::vector<double> expected(reference.begin(), reference.end());
    EXPECT_LE(relative_error(floats(*gpu, on_gpu.outputs[i]), expected), GetParam().tolerance) << "output " << i;
  }
}

TEST_P(OperationOnGpu, GivesTheSameBitsEachTime) {
  const PreparedOperation first = GetParam().prepare(*gpu), second = GetParam().prepare(*gpu);
  first.run();
  second.run();
  second.run();
  for (std::size_t i = 0; i < first.outputs.size(); ++i)
    EXPECT_EQ(first.outputs[i].to_host(*gpu), second.outputs[i].to_host(*gpu)) << "output " << i;
}

INSTANTIATE_TEST_SUITE_P(Cuda, OperationOnGpu, testing::ValuesIn(test_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(OpenDevice, SaysWhatIsMissingOrGivesAGpuThatIsTheSameEachTime) {
  const Result<Device*> gpu = open_device("cuda");
  if (!gpu) {
    EXPECT_EQ(gpu.error().code, Errc::unsupported);
    EXPECT_NE(gpu.error().message.find("use \"cpu\""), std::string::npos) << gpu.error().message;
    EXPECT_EQ(open_device("auto").value(), &cpu_device());
    return;
  }
  EXPECT_EQ(*gpu, open_device("cuda:0").value());
  EXPECT_EQ(*gpu, open_device("auto").value());
  EXPECT_EQ((*gpu)->kind(), DeviceKind::cuda);
  EXPECT_GT((*gpu)->free_memory(), std::size_t{1} << 28);
  EXPECT_EQ(open_device("cuda:99").error().code, Errc::unsupported);
}

}  // namespace
}  // namespace trib::kernels
