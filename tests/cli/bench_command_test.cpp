// `trib bench train` as a user meets it. What it measures is for people: here are its shape, and its errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/device.h"
#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;

ProgramResult bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"bench", "train"});
  return run_trib(arguments);
}

TEST(BenchTrain, PrintsOneJsonObjectWithWhatAMachineMakesOfAModel) {
  const ProgramResult result = bench({"--base", base_model, "--precision", "bf16", "--batch", "4", "--steps", "1",
                                      "--tokens", "8", "--device", "cpu", "--json", "--set", "adapter.rank=4"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object measured = one_json_object(result.out);
  EXPECT_EQ(measured.at("model").as_string(), "roberta-mini-imdb");
  EXPECT_EQ(measured.at("batch").to_number<int>(), 4);
  EXPECT_EQ(measured.at("mean_tokens").to_number<double>(), 8.0);
  EXPECT_TRUE(measured.at("device").as_string().starts_with("cpu ("));
  EXPECT_EQ(measured.at("memory_of").as_string(), "process");
  for (const char* mode : {"private", "plain"}) {
    const json::object& speed = measured.at(mode).as_object();
    EXPECT_NEAR(speed.at("tokens_per_second").to_number<double>(),
                8.0 * speed.at("samples_per_second").to_number<double>(), 1e-6);
  }
  EXPECT_GT(measured.at("gemm_share").to_number<double>(), 0.0);
  EXPECT_GT(measured.at("dp_overhead").to_number<double>(), 0.0);
}

TEST(BenchTrain, TakesTheLengthsOfTheUsersOwnTexts) {
  const ProgramResult result =
      bench({"--base", base_model, "--file", (source_directory / "datasets/clinc150/valid.tsv").string(), "--batch",
             "8", "--steps", "1", "--device", "cpu"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("8 records of"), HasSubstr("samples/s"), HasSubstr("tokens/s"), HasSubstr("DP overhead"),
                    HasSubstr("operations/s of a large product"), HasSubstr("peak memory")));
}

TEST(BenchTrain, SaysWhatIsMissing) {
  const ProgramResult no_model = bench({});
  EXPECT_EQ(no_model.exit_code, 2);
  EXPECT_THAT(no_model.err, AllOf(HasSubstr("--base"), HasSubstr("--size")));
  const ProgramResult no_tokenizer =
      bench({"--size", "base", "--file", (source_directory / "datasets/clinc150/valid.tsv").string()});
  EXPECT_EQ(no_tokenizer.exit_code, 2);
  EXPECT_THAT(no_tokenizer.err, HasSubstr("--base"));
  const ProgramResult precision = bench({"--base", base_model, "--precision", "fp7", "--device", "cpu"});
  EXPECT_EQ(precision.exit_code, 2);
  EXPECT_THAT(precision.err, AllOf(HasSubstr("model.precision"), HasSubstr("fp7"), HasSubstr("bf16")));
}

TEST(BenchTrain, AGpuThatIsAskedForAndNotThereIsAnError) {
  if (kernels::open_device("cuda:7")) GTEST_SKIP() << "this machine has eight GPUs";
  const ProgramResult result = bench({"--base", base_model, "--device", "cuda:0,7"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("device \"cuda:0,7\""), HasSubstr("use \"cpu\"")));
}

}  // namespace
}  // namespace trib::cli
