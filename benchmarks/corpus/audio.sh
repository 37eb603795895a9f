# How audio is written: one block a program; a block's files lie in $OUT. $TONE is a WAV (16 kHz, 1 s), $WIDE
# another (44.1 kHz, two channels), $WORDS a text, $COVER a picture.

## ffmpeg : ffmpeg -version | head -1
f() { local name=$1; shift; ffmpeg -nostdin -v error -y -i "$TONE" "$@" "$OUT/ffmpeg-$name"; }
p() { local name=$1; shift; ffmpeg -nostdin -v error -i "$TONE" "$@" - | cat > "$OUT/ffmpeg-pipe-$name"; }
w() { local name=$1; shift; ffmpeg -nostdin -v error -y -i "$WIDE" "$@" "$OUT/ffmpeg-wide-$name"; }
f seek.wav; f bitexact.wav -bitexact; f float.wav -c:a pcm_f32le; f s24.wav -c:a pcm_s24le; f mulaw.wav -c:a pcm_mulaw
f adpcm.wav -c:a adpcm_ima_wav; f ms.wav -c:a adpcm_ms; f rf64.wav -rf64 always; f auto.wav -rf64 auto; f bext.wav -write_bext 1 -metadata description=tone
f list.wav -metadata title=tone -metadata artist=nobody; f odd.wav -ss 0 -t 0.50007 -c:a pcm_u8
p a.wav -f wav; p rf64.wav -f wav -rf64 always; p float.wav -c:a pcm_f32le -f wav; p tags.wav -metadata title=x -f wav
w a.wav; w x.wav -c:a pcm_s24le; p u8.wav -c:a pcm_u8 -f wav
f a.aiff; f s24.aiff -c:a pcm_s24be; f f32.aiff -c:a pcm_f32be; p a.aiff -f aiff; f id3.aiff -write_id3v2 1 -metadata title=t
f a.au; p a.au -f au; f mulaw.au -c:a pcm_mulaw; f a.caf; p a.caf -f caf; f alac.caf -c:a alac; f aac.caf -c:a aac; p mulaw.caf -c:a pcm_mulaw -f caf
f a.w64; p a.w64 -f w64; f a.voc; f a.flac; p a.flac -f flac; f l12.flac -compression_level 12; w a.flac
f cover.flac -i "$COVER" -map 0 -map 1 -disposition:v attached_pic; f a.ogg -c:a libvorbis; p a.ogg -c:a libvorbis -f ogg
f a.opus -c:a libopus; p a.opus -c:a libopus -f opus; f flac.oga -c:a flac; f a.spx -c:a libspeex -ar 16000; w a.ogg -c:a libvorbis
f a.mp3 -c:a libmp3lame; p a.mp3 -c:a libmp3lame -f mp3; f vbr.mp3 -c:a libmp3lame -q:a 4; f noxing.mp3 -c:a libmp3lame -write_xing 0
f id3v1.mp3 -c:a libmp3lame -write_id3v1 1 -metadata title=t; f ape.mp3 -c:a libmp3lame -metadata title=t -id3v2_version 3
f cover.mp3 -i "$COVER" -map 0 -map 1 -c:a libmp3lame; w 320.mp3 -c:a libmp3lame -b:a 320k; f shine.mp3 -c:a libshine -ar 44100; f mono22.mp3 -ar 22050 -c:a libmp3lame
f a.mp2 -c:a mp2; f twolame.mp2 -c:a libtwolame; f a.aac -c:a aac; f a.ac3 -c:a ac3; f a.eac3 -c:a eac3
f a.m4a -c:a aac; f fast.m4a -c:a aac -movflags +faststart; f alac.m4a -c:a alac; f frag.m4a -c:a aac -movflags frag_keyframe+empty_moov
f frag2.m4a -c:a aac -frag_duration 200000 -movflags frag_keyframe; f dash.m4a -c:a aac -movflags dash+empty_moov; p a.m4a -c:a aac -movflags frag_keyframe+empty_moov -f ipod
f a.m4b -c:a aac -f ipod; f a.mka -c:a aac; f opus.mka -c:a libopus; f opus.webm -c:a libopus; p opus.webm -c:a libopus -f webm; f vorbis.webm -c:a libvorbis
f flac.mka -c:a flac; f a.wma -c:a wmav2; f a.wv -c:a wavpack; f a.tta -c:a tta; f a.amr -ar 8000 -c:a libopencore_amrnb; f a.ra -c:a real_144 -ar 8000 -f rm
f a.thd -ar 44100 -c:a truehd -strict -2; f a.dts -ar 44100 -c:a dca -strict -2; f a.adx -c:a adpcm_adx; f a.sox; f a.ircam -f ircam; f flac.mp4 -c:a flac; f opus.mp4 -c:a libopus; f mp3.mp4 -c:a libmp3lame
f a.latm -c:a aac -f latm; f s.aac -c:a aac -b:a 32k -metadata title=x; f mp3.mov -c:a libmp3lame -ar 44100; f pcm.mov -c:a pcm_s16le; f a.3gp -c:a aac; f a.3g2 -c:a aac; f mp3.mka -c:a libmp3lame
f frag.mp4 -c:a aac -movflags frag_keyframe+empty_moov+default_base_moof; f skip.mp4 -c:a aac -movflags frag_keyframe+empty_moov+skip_trailer -frag_duration 200000

## sox : sox --version
s() { local name=$1; shift; sox -V1 "$TONE" "$@" "$OUT/sox-$name"; }
s a.wav; s u8.wav -b 8 2>/dev/null || true
for e in aiff aif aifc au snd caf w64 voc flac ogg mp3 mp2 amr-nb amr-wb gsm ircam sph paf sd2 wv 8svx avr cvsd hcom maud mat5 nist prc pvf sf smp sndt sounder sln txw vms xa fap htk wve; do sox -V1 "$TONE" "$OUT/sox-a.$e" 2>/dev/null || rm -f "$OUT/sox-a.$e"; done
for e in wav aiff au flac ogg mp3 caf w64 voc; do
  sox -V1 "$TONE" -t $e - 2>/dev/null | cat > "$OUT/sox-pipe.$e"
  sox -V1 "$TONE" -t $e - silence 1 0.01 0.1% 2>/dev/null | cat > "$OUT/sox-hidden.$e"
done
sox -V1 "$TONE" -e float -b 32 "$OUT/sox-float.wav"; sox -V1 "$TONE" -e ima-adpcm "$OUT/sox-ima.wav"; sox -V1 "$TONE" -e gsm -r 8000 "$OUT/sox-gsm.wav"; sox -V1 "$TONE" -e mu-law "$OUT/sox-mulaw.wav"; sox -V1 "$TONE" -b 24 "$OUT/sox-24.wav"
sox -V1 "$TONE" -e a-law "$OUT/sox-alaw.au"; sox -V1 "$TONE" -b 24 "$OUT/sox-24.aiff"; sox -V1 "$TONE" -b 8 "$OUT/sox-8.aiff" trim 0 0.50007
sox -V1 "$WIDE" "$OUT/sox-wide.wav"; sox -V1 "$WIDE" "$OUT/sox-wide.ogg"; sox -V1 "$WIDE" "$OUT/sox-wide.aiff"; sox -V1 "$TONE" -b 8 "$OUT/sox-odd.wav" trim 0 0.50007

## lame : lame --version | head -1
lame --quiet "$TONE" "$OUT/lame-cbr.mp3"; lame --quiet -V 5 "$TONE" "$OUT/lame-vbr.mp3"; lame --quiet --abr 64 "$TONE" "$OUT/lame-abr.mp3"
lame --quiet -t "$TONE" "$OUT/lame-notag.mp3"; lame --quiet --tt tone --ta nobody --add-id3v2 "$TONE" "$OUT/lame-id3.mp3"; lame --quiet --tt tone --id3v1-only "$TONE" "$OUT/lame-id3v1.mp3"
cat "$TONE" | lame --quiet - - | cat > "$OUT/lame-pipe.mp3"; lame --quiet --ti "$COVER" --tt c "$TONE" "$OUT/lame-cover.mp3"; lame --quiet -b 320 "$WIDE" "$OUT/lame-320.mp3"
lame --quiet --decode "$OUT/lame-cbr.mp3" "$OUT/lame-decode.wav"; lame --quiet --decode "$OUT/lame-cbr.mp3" - 2>/dev/null | cat > "$OUT/lame-decode-pipe.wav"; lame --quiet --freeformat -b 200 "$WIDE" "$OUT/lame-free.mp3"; lame --quiet -f -p "$WIDE" "$OUT/lame-crc.mp3"

## espeak-ng : espeak-ng --version
espeak-ng --stdout "Hello flora" > "$OUT/espeak-stdout.wav"; espeak-ng -w "$OUT/espeak-file.wav" "Hello flora"; espeak-ng --stdout "One two" | cat > "$OUT/espeak-pipe.wav"

## flite : flite --version | head -1
flite -t "hello flora" -o "$OUT/flite.wav"; flite -t "one" -o - | cat > "$OUT/flite-pipe.wav"

## mpg123 : mpg123 --version
lame --quiet "$TONE" in.mp3; mpg123 -q -w "$OUT/mpg123.wav" in.mp3; mpg123 -q -w - in.mp3 | cat > "$OUT/mpg123-pipe.wav"; mpg123 -q --au "$OUT/mpg123.au" in.mp3; mpg123 -q --au - in.mp3 | cat > "$OUT/mpg123-pipe.au"

## flac : flac --version
flac -s -f -o "$OUT/flac-8.flac" -8 "$TONE"; cat "$TONE" | flac -s -c - > "$OUT/flac-pipe.flac"; flac -s --ogg -f -o "$OUT/flac-ogg.oga" "$TONE"; flac -s -f -o "$OUT/flac-pic.flac" --picture "$COVER" "$TONE"
flac -s -d -f -o "$OUT/flac-decoded.wav" "$OUT/flac-8.flac"; flac -s -d -c "$OUT/flac-8.flac" | cat > "$OUT/flac-decoded-pipe.wav"; flac -s -d -f --force-aiff-format -o "$OUT/flac-decoded.aiff" "$OUT/flac-8.flac"
flac -s -d -f --force-rf64-format -o "$OUT/flac-decoded-rf64.wav" "$OUT/flac-8.flac"; flac -s -d -f --force-wave64-format -o "$OUT/flac-decoded.w64" "$OUT/flac-8.flac"; flac -s -f -0 --no-padding -o "$OUT/flac-0.flac" "$WIDE"

## opus-tools : opusenc --version | head -1
opusenc --quiet "$TONE" "$OUT/opusenc.opus"; opusenc --quiet "$TONE" - | cat > "$OUT/opusenc-pipe.opus"; opusenc --quiet --bitrate 16 --picture "$COVER" "$TONE" "$OUT/opusenc-pic.opus"
opusdec --quiet --rate 16000 "$OUT/opusenc.opus" "$OUT/opusdec.wav"; opusdec --quiet --rate 8000 --force-wav "$OUT/opusenc.opus" - | cat > "$OUT/opusdec-pipe.wav"

## vorbis-tools : oggenc --version
oggenc -Q -o "$OUT/oggenc.ogg" "$TONE"; oggenc -Q -o - "$TONE" | cat > "$OUT/oggenc-pipe.ogg"; oggdec -Q -o "$OUT/oggdec.wav" "$OUT/oggenc.ogg"; oggdec -Q -o - "$OUT/oggenc.ogg" | cat > "$OUT/oggdec-pipe.wav"
oggenc -Q -t second -o second.ogg "$TONE"; cat "$OUT/oggenc.ogg" second.ogg > "$OUT/oggenc-chained.ogg"

## wavpack : wavpack --version | head -1
wavpack -q -y "$TONE" -o "$OUT/wavpack.wv"; wavpack -q -y -b128 "$TONE" -o "$OUT/wavpack-lossy.wv"; wavpack -q - -o - < "$TONE" | cat > "$OUT/wavpack-pipe.wv"; wvunpack -q -y "$OUT/wavpack.wv" -o "$OUT/wvunpack.wav"; wvunpack -q "$OUT/wavpack.wv" -o - | cat > "$OUT/wvunpack-pipe.wav"; wvunpack -q -y --caf "$OUT/wavpack.wv" -o "$OUT/wvunpack.caf"; wvunpack -q -y --w64 "$OUT/wavpack.wv" -o "$OUT/wvunpack.w64"

## speex : speexenc --version 2>&1 | head -1
speexenc "$TONE" "$OUT/speexenc.spx" 2>/dev/null

## twolame : twolame --help 2>&1 | head -1
twolame -q 4 "$WIDE" "$OUT/twolame.mp2" 2>/dev/null


## gstreamer-audio : gst-launch-1.0 --version | head -1
g() { timeout 20 gst-launch-1.0 -q filesrc location="$TONE" ! wavparse ! audioconvert ! audioresample ! "$@"; }
g wavenc ! filesink location="$OUT/gst.wav"; g wavenc ! fdsink 2>/dev/null | cat > "$OUT/gst-pipe.wav"; g flacenc ! filesink location="$OUT/gst.flac"; g flacenc ! fdsink | cat > "$OUT/gst-pipe.flac"
g lamemp3enc ! xingmux ! filesink location="$OUT/gst-xing.mp3"; g lamemp3enc ! filesink location="$OUT/gst.mp3"; g vorbisenc ! oggmux ! filesink location="$OUT/gst.ogg"; g vorbisenc ! oggmux ! fdsink | cat > "$OUT/gst-pipe.ogg"
g opusenc ! oggmux ! filesink location="$OUT/gst.opus"; g opusenc ! matroskamux ! filesink location="$OUT/gst.mka"; g opusenc ! webmmux streamable=true ! fdsink | cat > "$OUT/gst-live.webm"; g avenc_aac ! mp4mux ! filesink location="$OUT/gst.m4a"; g avenc_aac ! mp4mux fragment-duration=200 ! filesink location="$OUT/gst-frag.m4a"
g speexenc ! oggmux ! filesink location="$OUT/gst.spx"; g lamemp3enc ! id3v2mux ! filesink location="$OUT/gst-id3.mp3"; g lamemp3enc ! apev2mux ! filesink location="$OUT/gst-ape.mp3"; g avenc_ac3 ! filesink location="$OUT/gst.ac3"; g avenc_aac ! aacparse ! audio/mpeg,stream-format=adts ! filesink location="$OUT/gst.aac"; g wavpackenc ! filesink location="$OUT/gst.wv"; g avmux_aiff ! filesink location="$OUT/gst.aiff"; g avenc_alac ! qtmux ! filesink location="$OUT/gst-alac.mov"

## exiftool-audio : exiftool -ver
 ffmpeg -nostdin -v error -y -i "$TONE" -c:a aac in.m4a; exiftool -q -o "$OUT/exiftool.m4a" -title=x in.m4a

## mkvmerge-audio : mkvmerge --version
opusenc --quiet "$TONE" in.opus; mkvmerge -q -o "$OUT/mkvmerge.mka" in.opus; mkvmerge -q -w -o "$OUT/mkvmerge-opus.webm" in.opus
