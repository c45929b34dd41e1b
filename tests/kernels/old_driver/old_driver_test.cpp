// A machine whose driver is too old: the loader finds fake_driver.cpp where the driver's library would be.
#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "common/log.h"
#include "kernels/device.h"

namespace trib::kernels {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(OldDriver, AskedForByNameIsAnErrorThatNamesBothVersionsAndTheRemedy) {
  const Result<Device*> gpu = open_device("cuda");
  ASSERT_FALSE(gpu);
  EXPECT_EQ(gpu.error().code, Errc::unsupported);
  EXPECT_THAT(gpu.error().message,
              AllOf(HasSubstr("device \"cuda\""), HasSubstr("serves CUDA 11.0"), HasSubstr("this build needs"),
                    HasSubstr("install driver"), HasSubstr("use \"cpu\" or \"auto\"")));
  EXPECT_EQ(open_devices("cuda:all").error().code, Errc::unsupported);
}

TEST(OldDriver, LeavesAutoWithTheCpuAndOneLineThatSaysWhy) {
  std::ostringstream said;
  const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(said);
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink));
  EXPECT_EQ(open_device("auto").value(), &cpu_device());
  EXPECT_EQ(open_device("auto").value(), &cpu_device());
  const std::string text = said.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("warning"), HasSubstr("computing on cpu"), HasSubstr("serves CUDA 11.0")));
}

}  // namespace
}  // namespace trib::kernels
