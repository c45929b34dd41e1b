// The backward operations of every device against finite differences in float64.
#include "tests/kernels/gradient_cases.h"
#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

class GradientOn : public testing::TestWithParam<std::tuple<const char*, GradientCase>> {
 protected:
  void SetUp() override {
    Result<Device*> device = open_device(std::get<0>(GetParam()));
    if (!device) GTEST_SKIP() << device.error().message;
    stream = (*device)->make_stream();
  }
  std::unique_ptr<Stream> stream;
};

// (f(x + h) − f(x − h))/2h at each element: off by h²/6 of the third derivative, and by 1e-16·f/h.
std::vector<double> finite_differences(const ComputedGradient& gradient) {
  constexpr double step = 1e-4;
  std::vector<double> at = gradient.at, differences(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double x = at[i];
    at[i] = x + step;
    const double up = gradient.scalar(at);
    at[i] = x - step;
    const double down = gradient.scalar(at);
    at[i] = x;
    differences[i] = (up - down) / (2 * step);
  }
  return differences;
}

TEST_P(GradientOn, IsWhatFiniteDifferencesGive) {
  const GradientCase& one = std::get<1>(GetParam());
  for (const ComputedGradient& gradient : one.run(*stream)) {
    SCOPED_TRACE(gradient.argument);
    const HostTensor computed = gradient.computed.to_host(*stream).to_f32().value();
    EXPECT_LE(relative_error(computed.as<float>(), finite_differences(gradient)), one.tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Operations, GradientOn,
                         testing::Combine(testing::Values("cpu", "cuda"), testing::ValuesIn(gradient_cases())),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });

}  // namespace
}  // namespace trib::kernels
