#include "kernels/tensor.h"

#include "tests/kernels/reference.h"

namespace trib::kernels {
namespace {

TEST(Devices, AreOpenedByNameOrRefusedWithAReason) {
  EXPECT_EQ(open_device("cpu").value(), &cpu_device());
  EXPECT_TRUE(open_device("auto").ok());
  EXPECT_EQ(open_device("cuda:99").error().code, Errc::unsupported);
  EXPECT_EQ(open_device("cuda:").error().code, Errc::invalid_argument);
  EXPECT_EQ(open_device("cuda:1x").error().code, Errc::invalid_argument);
  EXPECT_EQ(open_device("tpu").error().code, Errc::invalid_argument);
  EXPECT_NE(open_device("tpu").error().message.find("\"tpu\""), std::string::npos);
  EXPECT_GT(cpu_device().free_memory(), std::size_t{1} << 20);
}

TEST(Tensors, AreViewsThatShareMemory) {
  auto stream = cpu_device().make_stream();
  const Tensor whole = matrix(*stream, 3, 2, {1, 2, 3, 4, 5, 6});
  const Tensor part = whole.rows(1, 2).reshape({4});
  EXPECT_EQ(host(*stream, part), (std::vector<float>{3, 4, 5, 6}));
  part.zero(*stream);
  EXPECT_EQ(host(*stream, whole), (std::vector<float>{1, 2, 0, 0, 0, 0}));
  EXPECT_THROW(whole.rows(2, 2), std::invalid_argument);
  EXPECT_THROW(whole.reshape({5}), std::invalid_argument);
}

TEST(Tensors, KeepTheirMemoryWhileAViewLives) {
  auto stream = cpu_device().make_stream();
  Tensor view;
  {
    const Tensor whole = matrix(*stream, 2, 2, {1, 2, 3, 4});
    view = whole.rows(1, 1);
  }
  EXPECT_EQ(host(*stream, view), (std::vector<float>{3, 4}));
}

TEST(Tensors, CopyOnlyBetweenEqualTypesAndSizes) {
  auto stream = cpu_device().make_stream();
  const Tensor a = matrix(*stream, 1, 2, {1, 2}), b(cpu_device(), DType::f32, {2}), c(cpu_device(), DType::f64, {2});
  b.copy_from(*stream, a);
  EXPECT_EQ(host(*stream, b), (std::vector<float>{1, 2}));
  EXPECT_THROW(c.copy_from(*stream, a), std::invalid_argument);
  EXPECT_THROW(b.copy_from_host(*stream, HostTensor(DType::f32, {3})), std::invalid_argument);
}

TEST(Workspaces, ReuseMemoryAfterAReset) {
  Workspace workspace(cpu_device());
  auto stream = cpu_device().make_stream();
  const Tensor first = workspace.take(DType::f32, {100});
  first.zero(*stream);
  workspace.reset();
  const std::vector<float> ones(100, 1.0f);
  workspace.take(DType::f32, {100}).copy_from(*stream, Tensor::from_host(*stream, std::span<const float>(ones)));
  EXPECT_EQ(host(*stream, first), ones) << "the second tensor lies where the first was";
}

TEST(Workspaces, NeverHandOutOverlappingTensors) {
  Workspace workspace(cpu_device());
  auto stream = cpu_device().make_stream();
  for (int round = 0; round < 3; ++round) {
    std::vector<Tensor> tensors;
    for (std::int64_t i = 0; i < 50; ++i) {
      tensors.push_back(workspace.take(DType::f32, {1 + i * 1000}));
      const std::vector<float> values(static_cast<std::size_t>(1 + i * 1000), static_cast<float>(i));
      tensors.back().copy_from(*stream, Tensor::from_host(*stream, std::span<const float>(values)));
    }
    for (std::size_t i = 0; i < tensors.size(); ++i)
      for (float value : host(*stream, tensors[i])) ASSERT_EQ(value, static_cast<float>(i));
    workspace.reset();
  }
}

TEST(Workspaces, ScopesGiveBackWhatWasTakenInThem) {
  Workspace workspace(cpu_device());
  workspace.take(DType::u8, {64});
  for (int i = 0; i < 100; ++i) {
    Workspace::Scope scope(workspace);
    workspace.take(DType::u8, {1 << 19});
    Workspace::Scope inner(workspace);
    workspace.take(DType::u8, {1 << 20});
  }
  EXPECT_EQ(workspace.peak_bytes(), 64u + (1u << 19) + (1u << 20));
}

}  // namespace
}  // namespace trib::kernels
