#pragma once

// The numbers of one step of an optimizer, as myemb::embedding_update_ takes them.

#include <myemb/export.h>

#include <cstdint>
#include <string_view>

namespace myemb {

// g is the gradient of a weight w, already with its weight decay; m, v, s and b are its states.
enum class UpdateRule : int8_t {
  Sgd,             // w -= lr g; with momentum: b = momentum b + (1 - dampening) g; w -= lr b
  Adagrad,         // s += g^2; w -= lr g / (sqrt(s) + eps)
  RowWiseAdagrad,  // s, one a row, += the mean of g^2 over the row
  Adam,            // m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2;
                   // w -= lr m / (sqrt(v) + eps)
};

// How an updated weight goes back into 16 bits.
enum class Rounding : int8_t {
  Nearest,     // ties to even
  Stochastic,  // up or down, with a probability that makes the mean exact
  Split,       // bf16, with the rest of the fp32 number kept beside it
};

// What a rule does not name it does not look at.
struct UpdateOptions {
  UpdateRule rule = UpdateRule::Sgd;
  double lr = 0;            // with what the step makes of it: decay, bias corrections
  double eps = 0;           // added to the root that a gradient is divided by
  double weight_decay = 0;  // times the weight, added to the gradient
  double shrink = 0;        // times the weight, taken from the weight first (AdamW: lr times decay)
  bool maximize = false;    // go up the gradient
  double momentum = 0;      // SGD; 0: there is no state
  double dampening = 0;
  bool nesterov = false;
  double beta1 = 0;  // Adam
  double beta2 = 0;
  bool amsgrad = false;  // divide by the largest v so far, a third state
  Rounding rounding = Rounding::Nearest;
  uint64_t seed = 0;  // of stochastic rounding: its bits are a function of the seed, the step, the
  uint64_t step = 0;  // row and the column
};

// "sgd", "adagrad", "row_wise_adagrad" or "adam"; "nearest", "stochastic" or "split". The functions
// from names throw c10::ValueError for any other.
MYEMB_API UpdateRule update_rule(std::string_view name);
MYEMB_API Rounding rounding(std::string_view name);
MYEMB_API const char* name_of(UpdateRule rule);
MYEMB_API const char* name_of(Rounding rounding);

}  // namespace myemb
