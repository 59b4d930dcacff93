#pragma once

// Marks what libmyemb.so exports: the library is compiled with hidden visibility.
#define MYEMB_API __attribute__((visibility("default")))
