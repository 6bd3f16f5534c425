// Null: change nothing. The model is read, checked and written again, which drops blobs that
// nothing refers to and stores equal ones once. Copy this file to start a pass of your own.
#include "cmlc/pass.h"

namespace cmlc {
namespace {

class Null final : public WeightPass {
 public:
  Need Needs(const Weight&) const override { return {}; }

  Result<Outcome> Replace(const Weight&, const PassContext&) const override {
    return Outcome(Skipped{"left as they are", "this pass changes nothing"});
  }
};

}  // namespace

PassInfo NullPass() {
  return {.name = "null",
          .summary = "change nothing: read the model, check it and write it again",
          .description =
              "The result is equal to the input in every value, name and attribute. Blobs that no "
              "value refers to are dropped, and equal blobs are stored once.",
          .suffix = "copy",
          .make = MakePass<Null>};
}

}  // namespace cmlc
