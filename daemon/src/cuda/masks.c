// Dropout's factors on a GPU, bit for bit those of numerics/masks.rs. NVRTC compiles this for the GPU when a worker
// needs it, and the C compiler for the tests, which run it thread by thread. So: C that is C++ as well, no headers.
// Words of 32 bits are `unsigned`, which both sides have so.

#ifdef __CUDACC_RTC__
#define PTV2_HERE static __device__
#else
#define PTV2_HERE static
#endif

// masks.rs has the same fields in the same order.
struct Ptv2Masks {
  unsigned key[2];      // the generator's
  unsigned place[3];    // its counter's words but the first, which is the block
  unsigned blocks;      // each gives eight numbers of 16 bits
  unsigned kept_from;   // numbers below it become 0
  unsigned low_to;      // of the others, those up to it become `low`
  unsigned low, high;   // the bits of factors
  unsigned bytes;       // of a factor: 2 or 4
};

PTV2_HERE unsigned ptv2_factor(const struct Ptv2Masks* of, unsigned number) {
  return number < of->kept_from ? 0 : number <= of->low_to ? of->low : of->high;
}

// One thread makes one block, and writes its eight factors where they lie in the block's group of 16.
PTV2_HERE void ptv2_block(const struct Ptv2Masks* of, void* out, unsigned long long thread) {
  unsigned words[4], key0 = of->key[0], key1 = of->key[1];
  unsigned long long pair;
  int at;
  if (thread >= of->blocks) return;
  words[0] = (unsigned)thread;
  for (at = 0; at < 3; at++) words[at + 1] = of->place[at];
  // Philox4x32-10.
  for (at = 0; at < 10; at++) {
    const unsigned long long product0 = 0xD2511F53ull * words[0], product1 = 0xCD9E8D57ull * words[2];
    words[0] = (unsigned)(product1 >> 32) ^ words[1] ^ key0;
    words[1] = (unsigned)product1;
    words[2] = (unsigned)(product0 >> 32) ^ words[3] ^ key1;
    words[3] = (unsigned)product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  // Each word is a pair of numbers, the low half first. Neighbours write side by side.
  pair = thread / 16 * 64 + thread % 16;
  for (at = 0; at < 4; at++, pair += 16) {
    const unsigned first = ptv2_factor(of, words[at] & 0xFFFFu), second = ptv2_factor(of, words[at] >> 16);
    if (of->bytes == 2) {
      ((unsigned*)out)[pair] = first | second << 16;
    } else {
      ((unsigned long long*)out)[pair] = first | (unsigned long long)second << 32;
    }
  }
}

#ifdef __CUDACC_RTC__
extern "C" __global__ void ptv2_masks(const struct Ptv2Masks of, void* out) {
  ptv2_block(&of, out, (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x);
}
#else
void ptv2_masks_thread(const struct Ptv2Masks* of, void* out, unsigned long long thread) {
  ptv2_block(of, out, thread);
}
#endif
