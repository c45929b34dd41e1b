// What is said of a GPU or a driver that cannot be used: what was found, what is needed, and the remedy.
#include "kernels/cuda/requirements.h"

#include <gmock/gmock.h>

#include "kernels/device.h"

namespace trib::kernels::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(CudaRequirements, AnOldDriverIsNamedBesideTheOneThatIsNeeded) {
  const Status status = check_driver(DriverAnswer::too_old, 12040, 13000, "");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Errc::unsupported);
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("serves CUDA 12.4"), HasSubstr("this build needs 13.0"),
                                            HasSubstr("install driver 580 or newer")));
  EXPECT_THAT(check_driver(DriverAnswer::too_old, 11080, 12060, "").error().message,
              AllOf(HasSubstr("serves CUDA 11.8"), HasSubstr("needs 12.6"), HasSubstr("driver 525")));
}

TEST(CudaRequirements, AMachineWithoutADriverOrAGpuLacksThem) {
  const Status driver = check_driver(DriverAnswer::too_old, 0, 13000, "");
  EXPECT_EQ(driver.error().code, Errc::not_found);
  EXPECT_THAT(driver.error().message, AllOf(HasSubstr("no NVIDIA driver"), HasSubstr("CUDA 13.0")));
  const Status gpu = check_driver(DriverAnswer::no_gpu, 13000, 13000, "");
  EXPECT_EQ(gpu.error().code, Errc::not_found);
  EXPECT_THAT(gpu.error().message, AllOf(HasSubstr("no NVIDIA GPU"), HasSubstr("CUDA_VISIBLE_DEVICES")));
  EXPECT_TRUE(check_driver(DriverAnswer::gpus, 13000, 13000, ""));
}

TEST(CudaRequirements, ADriverThatDoesNotAnswerIsQuoted) {
  const Status status = check_driver(DriverAnswer::no_answer, 13000, 13000, "system not yet initialized");
  EXPECT_EQ(status.error().code, Errc::unsupported);
  EXPECT_THAT(status.error().message, HasSubstr("system not yet initialized"));
}

TEST(CudaRequirements, AComputeCapabilityThatIsTooLowIsNamedBesideTheLowest) {
  const Status status = check_gpu(1, "Tesla V100", 7, 0, true, "80-real;90");
  EXPECT_EQ(status.error().code, Errc::unsupported);
  EXPECT_THAT(status.error().message,
              AllOf(HasSubstr("cuda:1 (Tesla V100) has compute capability 7.0"), HasSubstr("at least 8.0 is needed")));
  EXPECT_TRUE(check_gpu(0, "NVIDIA A100", 8, 0, true, "80-real;90"));
  EXPECT_TRUE(check_gpu(0, "NVIDIA B200", 10, 0, true, "80-real;90"));
}

TEST(CudaRequirements, AGpuForWhichTheBuildHasNoKernelsNamesTheOptionThatBuildsThem) {
  const Status status = check_gpu(0, "NVIDIA A100", 8, 0, false, "90");
  EXPECT_EQ(status.error().code, Errc::unsupported);
  EXPECT_THAT(status.error().message,
              AllOf(HasSubstr("kernels for 90 only"), HasSubstr("-DTRIBUTARY_CUDA_ARCHITECTURES=80")));
}

}  // namespace
}  // namespace trib::kernels::cuda

namespace trib::kernels {
namespace {

TEST(OpenDevices, TakesOneOrSeveralAndRefusesWhatIsNeither) {
  EXPECT_EQ(open_devices("cpu").value(), std::vector<Device*>{&cpu_device()});
  EXPECT_EQ(open_devices("auto").value().size(), 1u);
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:0,", "cuda:0,0", "cuda:-1", "cuda:0;1", "cpu:0"}) {
    const auto devices = open_devices(name);
    ASSERT_FALSE(devices) << name;
    EXPECT_EQ(devices.error().code, Errc::invalid_argument) << name;
    EXPECT_THAT(devices.error().message, testing::HasSubstr("cuda:0,1")) << name;
  }
}

TEST(OpenDevices, OneDeviceIsAskedForWhereOneIsUsed) {
  for (const char* name : {"cuda:0,1", "cuda:all"}) {
    EXPECT_EQ(open_device(name).error().code, Errc::invalid_argument);
    EXPECT_THAT(open_device(name).error().message, testing::HasSubstr("names several"));
  }
}

TEST(OpenDevices, SeveralGpusOfWhichOneIsMissingAreRefusedTogether) {
  const auto devices = open_devices("cuda:0,99");
  ASSERT_FALSE(devices);
  EXPECT_EQ(devices.error().code, Errc::unsupported);
  EXPECT_THAT(devices.error().message, testing::HasSubstr("\"cuda:0,99\""));
}

TEST(OpenDevices, AreDescribedInOneLine) {
  EXPECT_EQ(describe({&cpu_device()}), cpu_device().name());
  EXPECT_EQ(describe({&cpu_device(), &cpu_device()}), "2 devices: " + cpu_device().name() + ", " + cpu_device().name());
}

}  // namespace
}  // namespace trib::kernels
